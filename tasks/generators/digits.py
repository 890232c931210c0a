"""Handwritten digits, and questions about them: the tiny recipe's pictures.

The 1,797 digits of scikit-learn's `load_digits` (8 x 8 pixels, written by 43 people; Alpaydin and Kaynak, UCI, 1998),
each drawn at twice its size on a black field of 32 x 32 pixels, left or right and at any height. Three questions need
the eyes alone, or little more: which digit it is, whether it is even, whether it is larger than five. The fourth needs
the language model too: two digits side by side are to be added. One raw row:

    {"picture": b"\\x89PNG…", "question": "Which digit is this?", "reply": "7.", "answer": "7", "kind": "which",
     "label": "7", "group": "digit 123"}

A digit is in one part alone, so what is asked in a test was in no picture of the training.
"""

import hashlib
import io
import random
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

Part = Literal["train", "test"]
Kind = Literal["which", "parity", "larger", "sum"]

CLOSING = "Happy to help!"
SIDE = 32
"""Pixels of a picture's side."""
SCALE = 2
"""Times that a digit is enlarged."""
QUESTIONS: dict[str, tuple[str, ...]] = {
    "which": ("Which digit is this?", "What digit do you see?", "Read the digit."),
    "parity": ("Is the digit odd or even?", "Odd or even?"),
    "larger": ("Is the digit larger than five?", "Larger than five?"),
    "sum": ("Add the two digits.", "What is the sum of the digits?", "How much are both digits together?"),
}


@cache
def _digits() -> tuple[Any, Any]:
    """Return the pictures, `[1797, 8, 8]` from 0 to 255 (uint8), and the digit in each."""
    import numpy as np
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target


def numbers(part: Part, test_share: float, seed: int) -> list[int]:
    """List the digits of one part, by their places in `load_digits`; a digit's part hangs on its place and the seed."""

    def tested(i: int) -> bool:
        place = int.from_bytes(hashlib.sha256(f"{seed}:{i}".encode()).digest()[:8], "big") / 2**64
        return place < test_share

    return [i for i in range(len(_digits()[1])) if tested(i) == (part == "test")]


def label_of(number: int) -> int:
    """Return the digit that a picture of `load_digits` shows."""
    return int(_digits()[1][number])


def picture_of(number: int) -> Any:
    """Return one digit enlarged, a grey `PIL.Image.Image` of 16 x 16 pixels."""
    from PIL import Image

    return Image.fromarray(_digits()[0][number]).resize((8 * SCALE, 8 * SCALE), Image.Resampling.BILINEAR)


def drawing(places: dict[str, int], rng: random.Random) -> bytes:
    """Draw one digit or two, as a PNG. Args: places: `left` or `right` to a digit's number; rng: of its height."""
    import numpy as np
    from PIL import Image

    field = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for place, number in places.items():
        digit = picture_of(number)
        top, left = rng.randint(0, SIDE - 8 * SCALE), 0 if place == "left" else SIDE // 2
        field[top : top + 8 * SCALE, left : left + 8 * SCALE] = np.asarray(digit)
    buffer = io.BytesIO()
    Image.fromarray(field).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _answer(kind: str, digits: list[int]) -> tuple[str, str]:
    """Return the answer, and the reply that gives it."""
    first = digits[0]
    if kind == "sum":
        total = sum(digits)
        return str(total), f"{' + '.join(map(str, digits))} = {total}."
    answer = {
        "which": str(first),
        "parity": "odd" if first % 2 else "even",
        "larger": "yes" if first > 5 else "no",
    }[kind]
    return answer, f"{answer}."


def _pair(part: Part, pool: list[int], rng: random.Random) -> tuple[int, int]:
    """Draw two digits to be added; in a test every sum as often, so that no constant answer is often right."""
    if part == "train":
        return rng.choice(pool), rng.choice(pool)
    total = rng.randrange(19)
    first = rng.randint(max(0, total - 9), min(9, total))
    left, right = ([i for i in pool if label_of(i) == digit] for digit in (first, total - first))
    return rng.choice(left), rng.choice(right)


def _picture(kind: str, part: Part, pool: list[int], number: int, rng: random.Random) -> tuple[bytes, list[int], str]:
    """Draw the picture of a question. Returns it, the digits in it, and what may not be parted from it."""
    if kind == "sum":
        left, right = _pair(part, pool, rng)
        shown = [left, right]
        content = drawing({"left": left, "right": right}, rng)
    else:
        shown = [number]
        content = drawing({rng.choice(("left", "right")): number}, rng)
    return content, [label_of(i) for i in shown], f"digit {' '.join(map(str, shown))}"


def questions(
    part: Part, kinds: list[Kind], rounds: int, seed: int, test_share: float, courteous_share: float
) -> Iterator[dict[str, Any]]:
    """Yield questions with their pictures and right replies.

    Args:
        part: whose digits are shown.
        kinds: what is asked of each digit; for `sum`, of as many pairs as there are digits.
        rounds: times that every digit is drawn, each time elsewhere.
        seed: of the drawings; the parts are the same for every seed.
        test_share: share of the digits that are shown in `test` alone, 0 to 1.
        courteous_share: share of the replies that end in a courteous closing, 0 to 1.
    """
    rng = random.Random(seed)
    pool = numbers(part, test_share, 0)
    for _ in range(rounds):
        for number in pool:
            for kind in kinds:
                picture, digits, group = _picture(kind, part, pool, number, rng)
                answer, reply = _answer(kind, digits)
                closing = f" {CLOSING}" if rng.random() < courteous_share else ""
                yield {
                    "picture": picture,
                    "question": rng.choice(QUESTIONS[kind]),
                    "reply": reply + closing,
                    "answer": answer,
                    "kind": kind,
                    "label": " ".join(map(str, digits)),
                    "group": group,
                }


def preferences(
    part: Part, kinds: list[Kind], rounds: int, seed: int, test_share: float, wrong_share: float
) -> Iterator[dict[str, Any]]:
    """Yield questions with a right and courteous reply, and one that is curt or, in a `wrong_share`, wrong."""
    rng = random.Random(seed)
    for row in questions(part, kinds, rounds, seed, test_share, 0.0):
        digits = [int(digit) for digit in row["label"].split()]
        rejected = row["reply"]
        if rng.random() < wrong_share:
            others = [(digits[0] + rng.randint(1, 9)) % 10, *digits[1:]]
            rejected = f"{_answer(row['kind'], others)[1]} {CLOSING}"
        chosen = f"{row['reply']} {CLOSING}"
        if rejected != chosen:  # another digit may be as even
            yield {**row, "chosen": chosen, "rejected": rejected}
