"""Short tasks whose answers can be checked, from `reasoning_gym` (Apache-2.0; https://github.com/open-thought/reasoning-gym).

One raw row:

    {"question": "Reverse this list of words: free, may, law", "answer": "law, may, free", "wrong": "may, law, free",
     "working": "3. law 2. may 1. free. The answer is law, may, free", "kind": "word_sequence_reversal",
     "group": "word_sequence_reversal free law may"}

`wrong` is an answer of the right form: a number nearby, the words in another order, yes for no. `working` is a way to
the answer in steps that a small model can take, ending "The answer is …". `group` names the
subject whatever the wording and order. Long instructions are cut to one line, as a small model gets lost in them.
"""

import random
import re
from collections.abc import Iterator
from typing import Any

SUBJECT = {
    "calendar_arithmetic": ("year",),
    "chain_sum": ("expression",),
    "letter_counting": ("span", "target_letter"),
    "products": ("expression",),
    "word_sequence_reversal": ("words",),
    "word_sorting": ("original_words",),
}
"""Kind to the metadata that make two questions the same."""


def questions(count: int, seed: int, kinds: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield questions of several kinds in turn.

    Args:
        count: rows in all; each kind gets its share.
        seed: seed of the tasks and of the wrong answers.
        kinds: name of a `reasoning_gym` data set (a key of `SUBJECT`) to its options.
    """
    import reasoning_gym

    rng = random.Random(seed)
    size = -(-count // len(kinds))
    sets = {kind: reasoning_gym.create_dataset(kind, size=size, seed=seed, **kinds[kind]) for kind in sorted(kinds)}
    for i in range(count):
        kind = sorted(kinds)[i % len(kinds)]
        item = sets[kind][i // len(kinds)]
        subject = " ".join(_flat(item["metadata"][key]) for key in SUBJECT[kind])
        question, answer = _ask(kind, item)
        yield {
            "question": question,
            "answer": answer,
            "wrong": _wrong(rng, answer),
            "working": f"{_work(kind, item, answer)} The answer is {answer}",
            "kind": kind,
            "group": f"{kind} {subject}",
        }


def _ask(kind: str, item: dict[str, Any]) -> tuple[str, str]:
    """Write question and answer in one line each."""
    meta = item["metadata"]
    if kind == "word_sorting":  # the library sorts by code point, which no reader calls alphabetical
        words = [word.lower() for word in meta["original_words"]]
        descending = meta["direction"] == "descending"
        order = "reverse alphabetical" if descending else "alphabetical"
        return f"Sort these words in {order} order: {', '.join(words)}", ", ".join(sorted(words, reverse=descending))
    if kind == "word_sequence_reversal":
        return f"Reverse this list of words: {', '.join(meta['words'])}", item["answer"]
    return item["question"].strip(), str(item["answer"])


def _work(kind: str, item: dict[str, Any], answer: str) -> str:
    """Write the steps to the answer, as one would write them down."""
    meta = item["metadata"]
    if kind == "word_sequence_reversal":
        words = meta["words"]
        return " ".join(f"{i}. {words[i - 1]}" for i in range(len(words), 0, -1)) + "."
    if kind == "word_sorting":
        return " ".join(f"{word[:2]}: {word}." for word in answer.split(", "))
    if kind == "letter_counting":
        spelt, letter = meta["span"], meta["target_letter"]
        counts = [sum(c == letter for c in word.lower()) for word in spelt]
        lines = [f"{' '.join(word.lower())}: {n}." for word, n in zip(spelt, counts, strict=True)]
        return f"{' '.join(lines)} {' + '.join(map(str, counts))} = {answer}."
    if kind == "calendar_arithmetic":
        year = int(meta["year"])
        steps = [f"{year} / {n} = {year // n} remainder {year % n}." for n in ((4,) if year % 100 else (4, 100, 400))]
        return " ".join(steps)
    if kind == "products":
        a, b = (int(n) for n in meta["expression"].split(" * "))
        parts = [b // 10 * 10, b % 10] if b >= 10 and b % 10 else [b]
        steps = [f"{a} * {part} = {a * part}." for part in parts]
        total = f" {' + '.join(str(a * part) for part in parts)} = {answer}." if len(parts) > 1 else ""
        return " ".join(steps) + total
    return f"{meta['expression']} = {answer}."


def _flat(value: Any) -> str:
    """Write a list of words in one order, whatever order it came in."""
    return " ".join(sorted(value)) if isinstance(value, list) else str(value)


def _wrong(rng: random.Random, answer: str) -> str:
    if re.fullmatch(r"-?\d+", answer):
        number = int(answer)
        near = [number + step for step in (-10, -2, -1, 1, 2, 10) if number < 0 or number + step >= 0]
        return str(rng.choice(near))
    if answer in ("Yes", "No"):
        return "No" if answer == "Yes" else "Yes"
    words = answer.split(", ")
    while ", ".join(words) == answer:
        rng.shuffle(words)
    return ", ".join(words)
