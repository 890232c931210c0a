"""What an encoder learns from: questions, the chunks that answer them, and chunks that only look as if they did.

One row, with one hard negative:

    {"anchor": "Where does Bexot live?", "positive": "Bexot lives in Olvar.", "negative_1": "Bexol lives in Tidun."}

Hard negatives are the best hits of the lexical index that are no gold chunk of the question (Karpukhin et al.,
arXiv:2004.04906), and share no text with one: a copy of the answer would be punished for being right. With a teacher, a
cross-encoder, each row carries the teacher's scores, and the encoder learns their margins (Hofstätter et al.,
arXiv:2010.02666) in place of a ranking.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from tasks.retrieval.lexical import Lexical
from tasks.retrieval.questions import Question
from tasks.stage.config import Strict

LABEL = "label"


class Negatives(Strict):
    """How hard negatives are mined from the lexical index."""

    count: int = Field(ge=0)
    """Hard negatives of a question; 0 leaves the other rows of the batch as its only negatives."""
    skip: int = Field(ge=0)
    """Best hits, gold chunks not counted, that are passed over, because they may hold the answer in other words."""
    among: int = Field(gt=0)
    """Hits after these among which the negatives are drawn."""


def pairs(
    questions: Sequence[Question],
    texts: Sequence[str],
    lexical: Lexical,
    negatives: Negatives,
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Make a row of each question and its first gold chunk.

    Args:
        questions: to learn from.
        texts: of the chunks, in the order of the lexical index's rows.
        lexical: index of the chunks.
        negatives: how many are mined, and where.
        seed: of the draw.

    Returns:
        The rows in the order of the questions, and counts: `pairs`; `left out`, questions for which there are too few
        other texts; `negatives found`; `negatives drawn at random`, where the index found too few.
    """
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    counts = {"pairs": 0, "left out": 0, "negatives found": 0, "negatives drawn at random": 0}
    copies = Counter(texts)
    for question in questions:
        row = {"anchor": question.text, "positive": texts[question.gold[0]]}
        right = {texts[at] for at in question.gold}
        found: list[int] = []
        if negatives.count:
            wanted = negatives.skip + negatives.among + sum(copies[text] for text in right)
            hits = lexical.search([question.text], min(wanted, len(texts)))[1][0].tolist()
            others = [hit for hit in hits if hit >= 0 and texts[hit] not in right]
            others = others[negatives.skip : negatives.skip + negatives.among]
            found = rng.sample(others, min(negatives.count, len(others)))
        wrong = [texts[hit] for hit in found]
        counts["negatives found"] += len(wrong)
        while len(wrong) < negatives.count and (drawn := _other(texts, right | set(wrong), rng)) is not None:
            wrong.append(drawn)
            counts["negatives drawn at random"] += 1
        if len(wrong) == negatives.count:
            rows.append({**row, **{f"negative_{at}": text for at, text in enumerate(wrong, 1)}})
            counts["pairs"] += 1
        else:
            counts["left out"] += 1
    return rows, counts


def reworded(rows: Sequence[dict[str, Any]], dropped_words: float, seed: int) -> list[dict[str, Any]]:
    """Leave words out of the questions, so that a wording is not learnt by heart, and other ones are understood.

    Args:
        rows: as `pairs` makes them.
        dropped_words: probability, 0 to 1, that a word is left out; a question keeps one of them at least.
        seed: of the draw.
    """
    rng = random.Random(seed)
    made = []
    for row in rows:
        words = row["anchor"].split()
        kept = [word for word in words if rng.random() >= dropped_words] or [rng.choice(words)]
        made.append({**row, "anchor": " ".join(kept) if len(kept) < len(words) else row["anchor"]})
    return made


def _other(texts: Sequence[str], taken: set[str], rng: random.Random) -> str | None:
    """Draw a text that is not taken; None where there seems to be no other."""
    drawn = (rng.choice(texts) for _ in range(100))
    return next((text for text in drawn if text not in taken), None)


def documents(row: dict[str, Any]) -> list[str]:
    """List the texts of a row that a question is compared with: the positive first, then the negatives."""
    return [row["positive"], *(row[key] for key in row if key.startswith("negative_"))]


def judged(rows: Sequence[dict[str, Any]], score: Callable[[list[tuple[str, str]]], Any]) -> list[dict[str, Any]]:
    """Give each row a teacher's scores of its documents as its label, the positive's first.

    Args:
        rows: as `pairs` makes them, with a negative at least.
        score: pairs of question and document to numbers, as `CrossEncoder.predict` does.
    """
    asked = [(row["anchor"], text) for row in rows for text in documents(row)]
    told = iter([float(value) for value in score(asked)])
    return [{**row, LABEL: [next(told) for _ in documents(row)]} for row in rows]


def cut(rows: Sequence[dict[str, Any]], model: Any) -> int:
    """Count the rows of which the encoder does not read a text to its end, because it is too long."""
    texts = list({text: None for row in rows for text in (row["anchor"], *documents(row))})
    tokens = model.tokenizer(texts)["input_ids"] if texts else []
    long = {text for text, ids in zip(texts, tokens, strict=True) if len(ids) > model.max_seq_length}
    return sum(not long.isdisjoint([row["anchor"], *documents(row)]) for row in rows)
