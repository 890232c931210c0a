"""Short tasks whose answers can be checked, from `reasoning_gym` (Apache-2.0; https://github.com/open-thought/reasoning-gym).

One raw row:

    {"question": "Reverse this list of words: free, may, law", "answer": "law, may, free", "wrong": "may, law, free",
     "kind": "word_sequence_reversal", "group": "word_sequence_reversal free law may"}

`wrong` is an answer of the right form: a number nearby, the words in another order, yes for no. `group` names the
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
    """Questions of several kinds in turn.

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
            "kind": kind,
            "group": f"{kind} {subject}",
        }


def _ask(kind: str, item: dict[str, Any]) -> tuple[str, str]:
    """Question and answer in one line each."""
    meta = item["metadata"]
    if kind == "word_sorting":  # the library sorts by code point, which no reader calls alphabetical
        words = [word.lower() for word in meta["original_words"]]
        descending = meta["direction"] == "descending"
        order = "reverse alphabetical" if descending else "alphabetical"
        return f"Sort these words in {order} order: {', '.join(words)}", ", ".join(sorted(words, reverse=descending))
    if kind == "word_sequence_reversal":
        return f"Reverse this list of words: {', '.join(meta['words'])}", item["answer"]
    return item["question"].strip(), str(item["answer"])


def _flat(value: Any) -> str:
    """A list of words in one order, whatever order it came in."""
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
