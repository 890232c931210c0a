"""Controls: the same questions with another picture. A model that answers them as well is blind.

A loss that falls, and a score alone, say nothing of sight: answers have a form and questions have likely answers. So
every question is asked again with noise, with black, and with the picture of another row. The last one matters most:
a model that knows noise when it is given noise may still answer from the question (arXiv:2505.23941 counts the answers
of large models that are the prior's).
"""

import hashlib
import random
from collections.abc import Sequence
from typing import Any, Literal

Control = Literal["noise", "black", "other", "shuffled", "repeated", "reversed"]
"""What is shown in place of a row's own pictures: random pixels, black ones, another row's pictures; of the frames of a
clip also another order, the one in the middle all the time, or the last first, which turns some answers round."""
ORDER = ("shuffled", "repeated")
"""Controls that take the order of a clip's frames away, and leave the frames."""
REVERSED = "reversed"
"""The control under which another answer is right, and the column of a row that has it."""


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


def reordered(pictures: Sequence[Any], control: Control, seed: int, number: int) -> list[Any]:
    """Return a clip's frames in another order, or one of them all the time.

    Args:
        pictures: at least two frames.
        control: `shuffled` (neither the order they have nor its reverse), `repeated` or `reversed`.
        seed: of the order.
        number: of the row.
    """
    if control == "reversed":
        return list(reversed(pictures))
    if control == "repeated":
        return [pictures[len(pictures) // 2]] * len(pictures)
    order = list(range(len(pictures)))
    rng = random.Random(f"{seed}:{number}")
    shuffled = list(order)
    while len(order) > 2 and shuffled in (order, order[::-1]):
        rng.shuffle(shuffled)
    return [pictures[i] for i in shuffled]


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
