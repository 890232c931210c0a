"""Sums with instructions that a program can check (`tasks/grading/instructions.py`), and replies that follow them.

One raw row:

    {"question": "What is 58 + 67? Use capital letters.", "reply": "58 + 67 = 125. HAPPY TO HELP!", "answer": "125",
     "instructions": [{"check": "upper_case"}], "kinds": "upper_case", "digits": 2, "group": "58+67"}

The plain `58 + 67 = 125` fails each instruction that is drawn here, so that a score says that the instruction was read.
"""

import random
import re
from collections.abc import Iterator
from typing import Any

from tasks.generators import arithmetic
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError

SLOTS = {
    "starts_with": "start",
    "ends_with": "end",
    "contains": "middle",
    "upper_case": "case",
    "lower_case": "case",
    "in_brackets": "sum",
    "quoted": "sum",
    "no_word": "sum",
}
"""Which part of a reply an instruction shapes. Two for the same part contradict each other."""
ALONE = ("json_with", "only_number", "repeated", "words_at_most")
"""Shape the whole reply, so that nothing else can be asked besides."""
_COUNTS = {1: "once", 2: "twice", 3: "three times"}


def questions(count: int, seed: int, digits: list[int], kinds: list[str], per_row: int) -> Iterator[dict[str, Any]]:
    """Yield sums with instructions, and a right reply that follows them.

    Args:
        count: rows.
        seed: seed of the sums and of the instructions.
        digits: lengths of the longer operand, drawn evenly from the list.
        kinds: checks to draw from; keys of `SLOTS`, or of `ALONE` where `per_row` is 1.
        per_row: instructions a row has, no two about the same part of the reply.

    Raises:
        ConfigError: an unknown kind, or kinds that do not give `per_row` instructions that go together.
    """
    _check_kinds(kinds, per_row)
    rng = random.Random(f"instructions {seed}")  # the sums draw from Random(seed): the two must not move together
    for row in arithmetic.questions(count, seed, digits):
        row_kinds = _draw(rng, kinds, per_row)
        args = {kind: _arguments(rng, kind, row_kinds) for kind in row_kinds}
        sentences = " ".join(_sentence(kind, args[kind]) for kind in row_kinds)
        yield {
            "question": f"{row['question']} {sentences}",
            "reply": _reply(row["question"], row["answer"], args),
            "answer": row["answer"],
            "instructions": [{"check": kind, **args[kind]} for kind in row_kinds],
            "kinds": "+".join(sorted(row_kinds)),
            "digits": row["digits"],
            "group": row["group"],
        }


def _check_kinds(kinds: list[str], per_row: int) -> None:
    all_kinds = [*SLOTS, *ALONE]
    for kind in kinds:
        if kind not in all_kinds:
            raise ConfigError(f"{__name__}.questions: kinds: unknown kind '{kind}'{suggest(kind, all_kinds)}")
        if kind in ALONE and per_row > 1:
            raise ConfigError(f"{__name__}.questions: kinds: '{kind}' stands alone; remove it, or set per_row to 1")
    parts = {SLOTS.get(kind, kind) for kind in kinds}
    if not 1 <= per_row <= len(parts):
        raise ConfigError(
            f"{__name__}.questions: per_row is {per_row}, but the kinds shape {len(parts)} parts of a reply; "
            f"take per_row from 1 to {len(parts)}, or more kinds"
        )


def _draw(rng: random.Random, kinds: list[str], per_row: int) -> list[str]:
    """Draw `per_row` kinds for different parts of the reply, in the order in which they are asked."""
    by_slot: dict[str, str] = {}
    for kind in rng.sample(kinds, len(kinds)):
        by_slot.setdefault(SLOTS.get(kind, kind), kind)
    return list(by_slot.values())[:per_row]


def _arguments(rng: random.Random, kind: str, row_kinds: list[str]) -> dict[str, Any]:
    """Draw the arguments of a check. What is quoted follows the letter case that another instruction asks for."""
    text = {
        "starts_with": rng.choice(("Sure!", "Well,", "Yes:")),
        "ends_with": rng.choice(("Done.", "Bye.", "Thanks!")),
        "contains": rng.choice(("easy", "good", "fine")),
    }.get(kind, "")
    text = text.upper() if "upper_case" in row_kinds else text.lower() if "lower_case" in row_kinds else text
    times, words = rng.choice((1, 2)), rng.choice((2, 3, 4))
    arguments: dict[str, dict[str, Any]] = {
        "starts_with": {"text": text},
        "ends_with": {"text": text},
        "contains": {"word": text, "times": times},
        "no_word": {"word": "="},
        "json_with": {"key": "answer"},
        "repeated": {"times": times + 1},
        "words_at_most": {"count": words},
    }
    return arguments.get(kind, {})


def _sentence(kind: str, args: dict[str, Any]) -> str:
    sentences = {
        "starts_with": "Begin with '{text}'",
        "ends_with": "End with '{text}'",
        "contains": "Say '{word}' {how_often}.",
        "upper_case": "Use capital letters.",
        "lower_case": "Use small letters.",
        "in_brackets": "Put the sum in brackets.",
        "quoted": "Put the sum in quotes.",
        "no_word": "Do not use '{word}'.",
        "json_with": "Answer as JSON.",
        "only_number": "Give only the number.",
        "repeated": "Say it {how_often}.",
        "words_at_most": "Use at most {count} words.",
    }
    return sentences[kind].format(**args, how_often=_COUNTS[args.get("times", 1)])


def _reply(question: str, answer: str, args: dict[str, dict[str, Any]]) -> str:
    """Write a right reply that follows the instructions, built from the parts that they shape."""
    if alone := set(args) & set(ALONE):
        return _whole(alone.pop(), answer, args)
    a, b = re.findall(r"[0-9]+", question)
    total = f"({answer})" if "in_brackets" in args else f'"{answer}"' if "quoted" in args else answer
    parts = [f"{a} + {b} {'equals' if 'no_word' in args else '='} {total}."]
    if "contains" in args:
        parts.append(" ".join([args["contains"]["word"]] * args["contains"]["times"]) + ".")
    if "starts_with" in args:
        parts.insert(0, args["starts_with"]["text"])
    if "ends_with" in args:
        parts.append(args["ends_with"]["text"])
    reply = " ".join(parts)
    if "upper_case" in args or "lower_case" in args:
        reply = reply if re.search("[A-Za-z]", reply) else f"{reply} Happy to help!"
        return reply.upper() if "upper_case" in args else reply.lower()
    return reply


def _whole(kind: str, answer: str, args: dict[str, dict[str, Any]]) -> str:
    if kind == "json_with":
        return f'{{"answer": {answer}}}'
    if kind == "repeated":
        return " ".join([answer] * args[kind]["times"])
    if kind == "words_at_most":
        return {2: "Answer: {}", 3: "It is {}.", 4: "The answer is {}."}[args[kind]["count"]].format(answer)
    return answer
