"""Drafts with their critiques: what a model learns checking and revising from, as a small one follows no such prompt.

One raw row of each generator, of a draft that is wrong:

    sums       {"question": "Add 58 and 67.", "draft": "58 + 67: 8+7=14 5+6+1=12 so 124.",
                "critique": "58 + 67: 8+7=15 5+6+1=12 so 125.", "revision": "58 + 67: 8+7=15 5+6+1=12 so 125.",
                "answer": "125", "digits": 2, "group": "58+67"}
    reasoning  {"question": "Calculate 7 + 8.", "draft": "7 + 8 = 17. The answer is 17",
                "critique": "Wrong: it is not 17 but 15.", "revision": "7 + 8 = 15. The answer is 15", …}

A wrong draft has one mistake, and what follows is consistent with it, as in what models write. A sum is checked by
working it out anew, and fault is found where that comes to another answer: a model of a million parameters does not
learn, in a minute, to see at a glance which step is wrong, nor to add the other way round. `reasoning` says "Right." or
what is wrong. The draft is context and never learnt: the recipes' maps put it into `prompt`. `group` is that of the
other generators, so that what is tested trains nowhere.
"""

import random
import re
from collections.abc import Iterator
from typing import Any

from tasks.generators import reasoning as reasoning_rows
from tasks.generators.arithmetic import QUESTIONS, _sum
from tasks.grading.addition import working

RIGHT = "Right."
"""What `reasoning` says to a right draft."""


def sums(count: int, seed: int, digits: list[int], wrong_share: float) -> Iterator[dict[str, Any]]:
    """Yield worked-out sums, a `wrong_share` of the drafts with one wrong step."""
    rng = random.Random(seed)
    for _ in range(count):
        a, b, length, group = _sum(rng, digits)
        while a + b == 0:  # there is no step to take
            a, b, length, group = _sum(rng, digits)
        revision = f"{a} + {b}: {working(a, b)}."
        yield {
            "question": rng.choice(QUESTIONS).format(a=a, b=b),
            "draft": slip(rng, a, b) if rng.random() < wrong_share else revision,
            "critique": revision,
            "revision": revision,
            "answer": str(a + b),
            "digits": length,
            "group": group,
        }


def reasoning(count: int, seed: int, kinds: dict[str, dict[str, Any]], wrong_share: float) -> Iterator[dict[str, Any]]:
    """Yield the tasks of `reasoning.questions`, a `wrong_share` of the drafts with a wrong result at the end."""
    rng = random.Random(seed)
    for row in reasoning_rows.questions(count, seed, kinds):
        revision, answer, wrong = row["working"], row["answer"], row["wrong"]
        draft = revision
        critique = RIGHT
        if rng.random() < wrong_share:
            # Where the last step has the result it is wrong there too: `7 + 8 = 17. The answer is 17`.
            draft = re.sub(rf"(= |The answer is ){re.escape(answer)}(?![\w-])", rf"\g<1>{wrong}", revision)
            critique = f"Wrong: it is not {wrong} but {answer}."
        facts = {key: row[key] for key in ("question", "answer", "kind", "group")}
        yield {**facts, "draft": draft, "critique": critique, "revision": revision}


def slip(rng: random.Random, a: int, b: int) -> str:
    """Write a column addition with one wrong step.

    The steps are those of `tasks/grading/addition.py`. One has a wrong result (a near one, or a ten too many or too
    few), a carry forgotten or made up, or a digit misread; the steps behind it go on with its carry.
    """
    columns = [(a // 10**i % 10, b // 10**i % 10) for i in range(len(str(max(a, b))))]
    at = rng.randrange(len(columns))
    steps = []
    carry = 0
    total = 0
    for i, (x, y) in enumerate(columns):
        result = x + y + carry
        step = _step(x, y, carry, result)
        if i == at:
            step, result = _wrong_step(rng, x, y, carry)
        steps.append(step)
        total += (result if i == len(columns) - 1 else result % 10) * 10**i
        carry = result // 10
    return f"{a} + {b}: {' '.join(steps)} so {total}."


def _step(x: int, y: int, carry: int, result: int) -> str:
    return f"{x}+{y}{'+1' if carry else ''}={result}"


def _wrong_step(rng: random.Random, x: int, y: int, carry: int) -> tuple[str, int]:
    """Write a step with a mistake; return it as text, and its result, which is not the right one."""
    kind = rng.choice(("result", "result", "carry", "digit"))
    if kind == "carry":
        carry = 1 - carry
    elif kind == "digit":
        x = rng.choice([digit for digit in (x - 1, x + 1) if 0 <= digit <= 9])
    result = x + y + carry
    if kind == "result":
        result = rng.choice([r for r in (result - 10, result - 1, result + 1, result + 10) if 0 <= r <= 19])
    return _step(x, y, carry, result), result
