"""Clips of a handwritten digit that moves: the tiny recipe's videos.

Five frames of 32 x 32 pixels, four a second, in which one digit of `tasks/generators/digits.py` goes left, right, up or
down, stands still for none, one or two of the four steps between, or does not move at all. Which digit it is can be
seen in any frame, and how often it stops by how many of them differ; which way it goes, in their order alone: a way
and its opposite pass the same places, and the frame in the middle may be any of either. One raw row:

    {"clip": b"…", "question": "Which way does it move?", "reply": "left.", "answer": "left", "reversed": "right",
     "kind": "way", "group": "digit 123"}

`reversed` is the answer where time runs backwards. The clips are Matroska files of FFV1, which loses nothing.
"""

import io
import random
from collections.abc import Iterator
from typing import Any, Literal

from tasks.generators.digits import SCALE, SIDE, Part, label_of, numbers, picture_of

Kind = Literal["which", "way", "stops"]
FRAMES = 5
RATE = 4
"""Frames a second."""
MOST_STOPS = 2
PATH = 12
"""Pixels from one end to the other: a multiple of the moves of every clip (2, 3 or 4)."""
MARGIN = (SIDE - 8 * SCALE - PATH) // 2
"""Pixels between an end and the edge, the same on both sides."""
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up", "still": "still"}
QUESTIONS: dict[str, tuple[str, ...]] = {
    "which": ("Which digit moves?", "Which digit is this?"),
    "way": ("Which way does it move?", "Where does the digit go?"),
    "stops": ("How often does it stop?", "How many stops are there?"),
}


def _moves(stops: int, rng: random.Random) -> list[int]:
    """Say of each step between two frames whether the digit moves (1) or stands (0)."""
    standing = rng.sample(range(FRAMES - 1), stops)
    return [int(i not in standing) for i in range(FRAMES - 1)]


def clip(number: int, way: str, stops: int, rng: random.Random) -> bytes:
    """Film one digit, and return the file.

    Args:
        number: place of the digit in `load_digits`.
        way: `left`, `right`, `up`, `down` or `still`.
        stops: steps on which it stands.
        rng: of the places.
    """
    import av
    import numpy as np

    across, down = WAYS.get(way, (0, 0))
    moves, others = _moves(stops, rng), _moves(rng.randint(0, MOST_STOPS), rng)
    digit = np.asarray(picture_of(number))
    step = PATH // sum(moves)
    at = MARGIN + (PATH if across + down < 0 else 0)
    # Beside the path it stands where a digit may be in the middle of one, so that no frame tells the axis either.
    beside = MARGIN + PATH // sum(others) * sum(others[: FRAMES // 2])
    if way not in WAYS:
        others = _moves(rng.randint(0, MOST_STOPS), rng)
        at = MARGIN + PATH // sum(others) * sum(others[: FRAMES // 2])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "gray"
        for i in range(FRAMES):
            field = np.zeros((SIDE, SIDE), dtype=np.uint8)
            left, top = (at, beside) if across or way == "still" else (beside, at)
            field[top : top + len(digit), left : left + len(digit)] = digit
            container.mux(stream.encode(av.VideoFrame.from_ndarray(field, format="gray")))
            if i < FRAMES - 1:
                at += moves[i] * step * (across + down)
        container.mux(stream.encode())
    return buffer.getvalue()


def clips(
    part: Part, kinds: list[Kind], rounds: int, seed: int, test_share: float, still_share: float
) -> Iterator[dict[str, Any]]:
    """Yield questions about clips, with right replies.

    Args:
        part: whose digits move.
        kinds: what is asked, in turn.
        rounds: times that every digit is filmed.
        seed: of the films; the parts are those of the pictures.
        test_share: share of the digits that are shown in `test` alone, as for the pictures.
        still_share: share of the clips asked `way` in which nothing moves, 0 to 1.
    """
    rng = random.Random(seed)
    pool = numbers(part, test_share, 0)
    for turn in range(rounds):
        for i, number in enumerate(pool):
            kind = kinds[(i + turn) % len(kinds)]
            way, stops = rng.choice(sorted(WAYS)), rng.randint(0, MOST_STOPS)
            if kind == "way" and rng.random() < still_share:
                way, stops = "still", 0
            answer = {"which": str(label_of(number)), "way": way, "stops": str(stops)}[kind]
            yield {
                "clip": clip(number, way, stops, rng),
                "question": rng.choice(QUESTIONS[kind]),
                "reply": f"{answer}.",
                "answer": answer,
                "reversed": OPPOSITE[way] if kind == "way" else answer,
                "kind": kind,
                "group": f"digit {number}",
            }
