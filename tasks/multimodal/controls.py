"""Controls: the same questions with another picture, or sound. A model that answers as well is blind, or deaf.

A loss that falls, and a score alone, say nothing of sight: answers have a form and questions have likely answers. So
every question is asked again with noise, with black, and with the picture of another row. The last one matters most:
a model that knows noise when it is given noise may still answer from the question (arXiv:2505.23941 counts the answers
of large models that are the prior's).
"""

import hashlib
import random
from collections.abc import Sequence
from typing import Any, Literal

Control = Literal["noise", "black", "silence", "other", "shuffled", "repeated", "reversed"]
"""What is shown in place of a row's own pictures: random pixels, black ones, another row's pictures; of the frames of a
clip also another order, the one in the middle all the time, or the last first, which turns some answers round. What is
heard in place of a row's own sound: noise, silence, another row's sound."""
HEARD = ("noise", "silence", "other")
"""Controls of a sound."""
SHOWN = ("noise", "black", "other", "shuffled", "repeated", "reversed")
"""Controls of pictures."""
ORDER = ("shuffled", "repeated")
"""Controls that take the order of a clip's frames away, and leave the frames."""
CELLS = 32
"""Most cells of noise on a side."""
TRIES = 50
"""Orders that are drawn before a clip counts as one that has no other."""
REVERSED = "reversed"
"""The control under which another answer is right, and the column of a row that has it."""


def other_rows(names: Sequence[str], groups: Sequence[str], answers: Sequence[str], seed: int) -> list[int | None]:
    """Give each row another row of its group that has another answer, so that only a blind model is still right.

    Args:
        names: of the rows; the choice hangs on a row's name, and on no other row's place.
        groups: of each row; rows of one group are asked alike.
        answers: of each row; they are alike whatever their case and the white space around them.
        seed: of the choice.

    Returns:
        The number of the other row for each row; None where there is none with another answer.
    """
    members: dict[str, list[int]] = {}
    for i in sorted(range(len(names)), key=lambda i: names[i]):
        members.setdefault(groups[i], []).append(i)
    answers = [answer.strip().casefold() for answer in answers]
    other: list[int | None] = []
    for name, group, answer in zip(names, groups, answers, strict=True):
        choices = [j for j in members[group] if answers[j] != answer]
        other.append(choices[_number(f"{seed}:{name}") % len(choices)] if choices else None)
    return other


def resampled(frames: Sequence[str], count: int) -> list[str]:
    """Take so many of a clip's frames, evenly from beginning to end."""
    last = len(frames) - 1
    return [frames[round(k * last / max(count - 1, 1))] for k in range(count)]


def reordered(frames: Sequence[str], control: Control, seed: int, name: str) -> list[str] | None:
    """Return a clip's frames in another order, or one of them all the time.

    Args:
        frames: their names; equal frames have equal names.
        control: `shuffled` (an order that shows neither what the clip shows nor its reverse), `repeated` or `reversed`.
        seed: of the order.
        name: of the row.

    Returns:
        None where the control changes nothing that can be seen: one frame, or none that differ, or no third order.
    """
    own, back = list(frames), list(reversed(frames))
    if control == "reversed":
        return back
    if len(set(own)) < 2:
        return None
    if control == "repeated":
        return [own[len(own) // 2]] * len(own)
    rng = random.Random(f"{seed}:{name}")
    for _ in range(TRIES):
        shuffled = list(own)
        rng.shuffle(shuffled)
        if shuffled not in (own, back):
            return shuffled
    return None


def replaced(picture: Any, control: Control, seed: int, name: str) -> Any:
    """Return a picture of the same size that shows nothing. `other` is no matter of one picture: see `other_rows`.

    Noise has at most 32 x 32 cells: finer noise would average to grey where a processor scales the picture down.

    Args:
        picture: a `PIL.Image.Image`.
        control: `noise` or `black`.
        seed: of the noise.
        name: of the row and picture, so that each has noise of its own.
    """
    import numpy as np
    from PIL import Image

    width, height = picture.size
    if control == "black":
        return Image.new("RGB", (width, height))
    rng = np.random.default_rng([seed, _number(name)])
    cells = rng.integers(0, 256, (min(height, CELLS), min(width, CELLS), 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)


def muted(samples: Any, control: Control, seed: int, name: str) -> Any:
    """Return a sound of the same length that says nothing.

    Args:
        samples: `[samples]` (float32).
        control: `noise`, white and as loud as the sound, or `silence`.
        seed: of the noise.
        name: of the row, so that each has noise of its own.
    """
    import numpy as np

    if control == "silence":
        return np.zeros_like(samples)
    loudness = float(np.sqrt(np.mean(np.square(samples))))
    return (loudness * np.random.default_rng([seed, _number(name)]).standard_normal(len(samples))).astype(np.float32)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
