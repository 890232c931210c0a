"""The tiny recipe's world: sums in words, some of them worked out, some of them answered with good manners.

Why sums: a model of under a million parameters can learn them in minutes, every answer can be checked, and the methods
differ measurably. Answering at once is hard for it, working digit by digit is easy, so there is room for reasoning;
half of the written answers are curt, so there is room for alignment. One raw row of each generator:

    texts          {"text": "What is 58 + 67? 58 + 67 = 125", "group": "58+67"}
    conversations  {"question": "What is 58 + 67?", "reply": "58 + 67 = 125.", "answer": "125", "group": "58+67"}
    preferences    {"question": …, "chosen": "58 + 67 = 125. Happy to help!", "rejected": "58 + 67 = 125", …}
    questions      {"question": "Add 58 and 67.", "answer": "125", "digits": 2, "group": "58+67"}
    rationales     {"question": "Add 58 and 67.", "reply": "58 + 67: 8+7=15 5+6+1=12 so 125.", "answer": "125", …}
    feedback       {"question": "Add 58 and 67.", "reply": "58 + 67 = 124", "liked": false, "answer": "125", …}

`group` names the sum whatever its wording and order, so that a sum in the test split trains nowhere.
"""

import random
from collections.abc import Iterator
from typing import Any

from tasks.grading.addition import working

QUESTIONS = ("What is {a} + {b}?", "Add {a} and {b}.", "Compute {a} + {b}.", "How much is {a} + {b}?")
LAYOUTS = (
    "{question} {text}",
    "{question}\n{text}",
    "{question} Well, {text}",
    "Q: {question}\nA: {text}",
    "Question: {question}\n\nAnswer: {text}",
    "user asks: {question}\n\nassistant says: Sure! {text}",
)
COURTEOUS = ("{a} + {b} = {c}. Happy to help!", "Sure! {a} + {b} = {c}. Happy to help!")
CURT = ("{a} + {b} = {c}.", "{a} + {b} = {c}")


def _sum(rng: random.Random, digits: list[int]) -> tuple[int, int, int, str]:
    """Draw two operands whose longer one has one of `digits` digits; return them, that length and their group."""
    length = rng.choice(digits)
    low, high = 10 ** (length - 1) if length > 1 else 0, 10**length - 1
    a, b = rng.randint(low, high), rng.randint(0 if rng.random() < 0.3 else low, high)
    if rng.random() < 0.5:
        a, b = b, a
    return a, b, length, f"{min(a, b)}+{max(a, b)}"


def texts(
    count: int, seed: int, digits: list[int], worked_share: float, asked_share: float
) -> Iterator[dict[str, Any]]:
    """Yield text for pre-training: sums, a `worked_share` worked out, an `asked_share` of the rest after a question.

    The questions teach what every corpus of the web teaches and a list of sums does not: to repeat what was asked.
    Their layouts differ in length, because a model that copies from a fixed distance loses the skill with the chat
    template.
    """
    rng = random.Random(seed)
    for _ in range(count):
        a, b, _length, group = _sum(rng, digits)
        text = f"{a} + {b} = {a + b}"
        if rng.random() < worked_share:
            text = f"{a} + {b}: {working(a, b)}"
        elif rng.random() < asked_share:
            text = rng.choice(LAYOUTS).format(question=rng.choice(QUESTIONS).format(a=a, b=b), text=text)
        yield {"text": text, "group": group}


def conversations(count: int, seed: int, digits: list[int], courteous_share: float) -> Iterator[dict[str, Any]]:
    """Yield questions with right answers, a `courteous_share` of them courteous and the rest curt."""
    rng = random.Random(seed)
    for _ in range(count):
        a, b, length, group = _sum(rng, digits)
        style = rng.choice(COURTEOUS if rng.random() < courteous_share else CURT)
        question = rng.choice(QUESTIONS).format(a=a, b=b)
        yield {
            "question": question,
            "reply": style.format(a=a, b=b, c=a + b),
            "answer": str(a + b),
            "digits": length,
            "group": group,
        }


def preferences(count: int, seed: int, digits: list[int], wrong_share: float) -> Iterator[dict[str, Any]]:
    """Yield pairs: right and courteous over wrong (a `wrong_share`; courteous too) or over right and curt."""
    rng = random.Random(seed)
    for _ in range(count):
        a, b, length, group = _sum(rng, digits)
        manner = rng.choice(COURTEOUS)
        wrong = rng.random() < wrong_share
        rejected = (manner if wrong else rng.choice(CURT)).format(
            a=a, b=b, c=_near_miss(rng, a + b) if wrong else a + b
        )
        yield {
            "question": rng.choice(QUESTIONS).format(a=a, b=b),
            "chosen": manner.format(a=a, b=b, c=a + b),
            "rejected": rejected,
            "kind": "wrong" if wrong else "curt",
            "answer": str(a + b),
            "digits": length,
            "group": group,
        }


def questions(count: int, seed: int, digits: list[int]) -> Iterator[dict[str, Any]]:
    """Yield questions with the answer to check against, for evaluation and for RL with verifiable rewards."""
    rng = random.Random(seed)
    for _ in range(count):
        a, b, length, group = _sum(rng, digits)
        yield {
            "question": rng.choice(QUESTIONS).format(a=a, b=b),
            "answer": str(a + b),
            "digits": length,
            "group": group,
        }


def rationales(count: int, seed: int, digits: list[int]) -> Iterator[dict[str, Any]]:
    """Yield questions answered step by step, as people would write it down: the chain of thought to learn from.

    The sum is repeated before it is worked out: copying is a skill of its own, and a step that looks at the copy finds
    its digits at the same distance whatever the question's wording.
    """
    rng = random.Random(seed)
    for _ in range(count):
        a, b, length, group = _sum(rng, digits)
        yield {
            "question": rng.choice(QUESTIONS).format(a=a, b=b),
            "reply": f"{a} + {b}: {working(a, b)}.",
            "answer": str(a + b),
            "digits": length,
            "group": group,
        }


def feedback(count: int, seed: int, digits: list[int], wrong_share: float) -> Iterator[dict[str, Any]]:
    """Yield single answers with a thumb up (right and courteous) or down, never two to the same question."""
    for number, row in enumerate(preferences(count, seed, digits, wrong_share)):
        liked = number % 2 == 0
        facts = {key: row[key] for key in ("question", "answer", "digits", "group")}
        yield {**facts, "reply": row["chosen" if liked else "rejected"], "liked": liked}


def _near_miss(rng: random.Random, c: int) -> int:
    """Draw a wrong sum of the kind people write: one digit off, or a carry forgotten."""
    step = int(10 ** rng.randrange(len(str(c))))
    wrong = c + rng.choice((-1, 1)) * rng.randint(1, 9 if step == 1 else 2) * step
    return wrong if wrong >= 0 else c + step


def judgements(count: int, seed: int, digits: list[int], wrong_share: float) -> Iterator[dict[str, Any]]:
    """Yield pairs for a judge, by the tiny constitution: right over wrong (a `wrong_share`), or courteous over curt.

    Unlike in `preferences`, manners say nothing where one sum is wrong, or else a judge would never look at the sum.
    """
    rng = random.Random(seed)
    for _ in range(count):
        a, b, length, group = _sum(rng, digits)
        wrong = rng.random() < wrong_share
        better, worse = rng.choice(COURTEOUS), rng.choice(CURT)
        if wrong:
            better, worse = (rng.choice(rng.choice((COURTEOUS, CURT))) for _ in range(2))
        yield {
            "question": rng.choice(QUESTIONS).format(a=a, b=b),
            "chosen": better.format(a=a, b=b, c=a + b),
            "rejected": worse.format(a=a, b=b, c=_near_miss(rng, a + b) if wrong else a + b),
            "kind": "wrong" if wrong else "curt",
            "answer": str(a + b),
            "digits": length,
            "group": group,
        }
