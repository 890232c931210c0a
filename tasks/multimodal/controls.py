"""Controls: the same questions with another picture. A model that answers them as well is blind.

A loss that falls, and a score alone, say nothing of sight: answers have a form and questions have likely answers. So
every question is asked again with noise, with black, and with the picture of another row. The last one matters most:
a model that knows noise when it is given noise may still answer from the question (arXiv:2505.23941 counts the answers
of large models that are the prior's).
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

Control = Literal["noise", "black", "other"]
"""Picture in place of the row's own: random pixels, black ones, or another row's picture."""


def other_rows(groups: Sequence[str], answers: Sequence[str], seed: int) -> list[int]:
    """Give each row another row of its group that has another answer, so that only a blind model is still right.

    Args:
        groups: of each row; rows of one group are asked alike.
        answers: of each row; they are alike whatever their case and the white space around them.
        seed: of the choice.

    Returns:
        The number of the other row for each row; its own where there is none with another answer.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    other = []
    answers = [answer.strip().casefold() for answer in answers]
    for i, group in enumerate(groups):
        choices = [j for j in members[group] if answers[j] != answers[i]]
        place = int.from_bytes(hashlib.sha256(f"{seed}:{i}".encode()).digest()[:8], "big")
        other.append(choices[place % len(choices)] if choices else i)
    return other


def replaced(picture: Any, control: Control, seed: int, number: int) -> Any:
    """Return a picture of the same size that shows nothing. `other` is no matter of one picture: see `other_rows`.

    Args:
        picture: a `PIL.Image.Image`.
        control: `noise` or `black`.
        seed: of the noise.
        number: of the row, so that each has noise of its own.
    """
    import numpy as np
    from PIL import Image

    width, height = picture.size
    if control == "black":
        return Image.new("RGB", (width, height))
    rng = np.random.default_rng([seed, number])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
