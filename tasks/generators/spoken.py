"""Spoken digits, and sums that are asked aloud: the tiny recipe's sounds.

Each clip is one to three digits ("three seven five"), or two digits with "plus" between them, said by one of
espeak-ng's voices, at a rate and a pitch of its own, in one go or word by word. Two questions are asked of it: to write
down what is said, and of a sum its result, which needs the language model's arithmetic. One raw row:

    {"clip": b"fLaC…", "speaker": "f3", "question": "Answer the question.", "reply": "3 + 5 = 8.", "answer": "8",
     "kind": "sum", "label": "3 + 5", "text": "three plus five"}

A voice is in one part alone: whoever speaks in a test has said nothing in the training.
"""

import hashlib
import io
import random
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from tasks.generators.espeak import Synthesiser
from tasks.stage.errors import DataError

Part = Literal["train", "test"]
Kind = Literal["transcribe", "sum"]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc", "en-gb-x-gbclan")
"""English as it is spoken in the United States, Britain, Scotland, Lancaster, the Caribbean and New York."""
QUESTIONS: dict[str, str] = {"transcribe": "Write down what you hear.", "sum": "Answer the question."}
EDGE = 0.05
"""Seconds of silence that are left around a clip."""
QUIET = 0.01
"""Share of the loudest sample below which an edge counts as silent."""
RATES = (85, 230)
"""Words a minute of the slowest and the fastest clip."""
PITCHES = (20, 85)
"""Lowest and highest pitch, of 0 to 100."""
PEAK = 0.8
"""Level of the loudest sample."""
PAUSE = 0.15
"""Longest pause in seconds between words that are said one by one."""
TRIES = 100
"""Times that a clip is said anew before it counts as one that is always too long."""


def speakers(variants: Iterable[str], part: Part, test_share: float, seed: int) -> list[str]:
    """List the voices of one part; a voice's part hangs on its name and the seed."""

    def tested(name: str) -> bool:
        place = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") / 2**64
        return place < test_share

    return [name for name in variants if tested(name) == (part == "test")]


def _words(rng: random.Random, sum_share: float) -> tuple[list[str], list[int], str]:
    """Draw what is said. Returns the words, the digits among them, and the kind that fits best."""
    if rng.random() < sum_share:
        total = rng.randrange(19)  # every sum as often: no constant answer is often right
        first = rng.randint(max(0, total - 9), min(9, total))
        digits = [first, total - first]
        return [WORDS[digits[0]], "plus", WORDS[digits[1]]], digits, "sum"
    digits = [rng.randrange(10) for _ in range(rng.choice((1, 2, 3, 3)))]
    return [WORDS[digit] for digit in digits], digits, "transcribe"


def trimmed(samples: Any, rate: int) -> Any:
    """Cut the silence around a clip down to `EDGE` and bring its loudest sample to `PEAK`."""
    import numpy as np

    level = np.abs(samples)
    loud = np.flatnonzero(level > QUIET * level.max())
    edge = int(EDGE * rate)
    cut = samples[max(0, loud[0] - edge) : loud[-1] + edge]
    return cut * (PEAK / np.abs(cut).max())


def _spoken(machine: Synthesiser, words: list[str], voice: str, rng: random.Random, joined: bool) -> Any:
    """Say the words, in one go or one by one with pauses of random lengths."""
    import numpy as np

    how = (rng.choice(ACCENTS), voice, rng.randint(*RATES), rng.randint(*PITCHES))
    if not joined:
        separator = " " if rng.random() < 0.6 else ", "
        return trimmed(machine.say(separator.join(words), *how), machine.sampling_rate)
    pieces = []
    for word in words:
        pieces.append(trimmed(machine.say(word, *how), machine.sampling_rate))
        pieces.append(np.zeros(int(rng.uniform(0, PAUSE) * machine.sampling_rate), np.float32))
    return np.concatenate(pieces[:-1])


def questions(
    part: Part,
    kinds: list[Kind],
    rounds: int,
    seed: int,
    test_share: float,
    sum_share: float,
    joined_share: float,
    max_seconds: float,
) -> Iterator[dict[str, Any]]:
    """Yield questions with their clips and right replies.

    Args:
        part: whose voices speak.
        kinds: what is asked: `transcribe` of every clip, `sum` of those that ask for one.
        rounds: clips of each voice.
        seed: of what is said and how; the parts are the same for every seed.
        test_share: share of the voices that speak in `test` alone, 0 to 1.
        sum_share: share of the clips that ask for a sum, 0 to 1.
        joined_share: share of the clips whose words are said one by one, 0 to 1.
        max_seconds: length beyond which a clip is said anew, at another rate and in one go.

    Raises:
        DataError: the package of the voices is missing, or a voice does not keep to `max_seconds`.
    """
    import soundfile

    rng = random.Random(seed)
    machine = Synthesiser()
    for voice in speakers(machine.variants, part, test_share, 0):
        for _ in range(rounds):
            words, digits, kind = _words(rng, sum_share)
            samples = _spoken(machine, words, voice, rng, rng.random() < joined_share)
            tries = 0
            while len(samples) > max_seconds * machine.sampling_rate:
                tries += 1
                if tries > TRIES:
                    raise DataError(
                        f"max_seconds is {max_seconds:g}, and the voice '{voice}' takes longer for "
                        f"'{' '.join(words)}', however fast; raise max_seconds"
                    )
                samples = _spoken(machine, words, voice, rng, joined=False)
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, machine.sampling_rate, format="FLAC", subtype="PCM_16")
            label = (" + " if kind == "sum" else " ").join(map(str, digits))
            for asked in kinds:
                if asked == "sum" and kind != "sum":
                    continue
                answer = label if asked == "transcribe" else str(sum(digits))
                yield {
                    "clip": buffer.getvalue(),
                    "speaker": voice,
                    "question": QUESTIONS[asked],
                    "reply": answer if asked == "transcribe" else f"{label} = {answer}.",
                    "answer": answer,
                    "kind": asked,
                    "label": label,
                    "text": " ".join(words),
                }
