"""Rows of an evaluation: every test question in each condition, as lm-evaluation-harness reads them."""

import random
from collections.abc import Sequence
from typing import Any, Literal

from tasks.retrieval import passages as choose
from tasks.retrieval.passages import Passage, Question
from tasks.retrieval.prompts import PromptFormat

Condition = Literal["closed", "retrieved", "gold", "wrong", "removed", "planted", "contradicting", "poisoned"]
KEPT = ("subject", "document", "quote", "kind", "family")
"""Columns of a question that its test rows keep, where it has them."""


def shown(
    question: Question, condition: Condition, form: PromptFormat, wordings: Sequence[str], rng: random.Random
) -> list[Passage]:
    """Choose the passages of a test row, in an order that is drawn.

    Args:
        question: one that the documents answer.
        condition: what the reader is to cope with.
        form: how many passages a prompt takes.
        wordings: instructions for `planted`, with `{lure}`.
        rng: of places and draws.
    """
    passages = _chosen(question, condition, form, wordings, rng)
    rng.shuffle(passages)  # best first, a reader that always cites the first would cite well
    return passages


def _chosen(
    question: Question, condition: Condition, form: PromptFormat, wordings: Sequence[str], rng: random.Random
) -> list[Passage]:
    """Choose the passages of a test row, in any order."""
    most, least = form.passages, form.least_relevance
    if condition == "closed":
        return []
    if condition == "gold":
        return question.gold[:1]
    if condition == "wrong":
        return choose.wrong(question, most, rng)
    if condition == "removed":
        return choose.removed(question, most, least)
    if condition == "planted":
        shown = choose.found(question, most, least) or question.hits[:1]  # an attack needs a passage that is shown
        return choose.planted(shown, wordings, question.lure, rng)
    if condition == "poisoned":
        return choose.poisoned(question, most, rng, least)
    found = choose.found(question, most, least)
    if condition == "contradicting":
        kept = [passage for passage in found if not passage.holds]
        return [choose.falsified(question.gold[0], question.row, question.lure)._replace(holds=True), *kept[: most - 1]]
    return found


def row(
    question: Question, condition: Condition, form: PromptFormat, wordings: Sequence[str], rng: random.Random
) -> dict[str, Any]:
    """Make a test row of one question.

    Returns:
        `question`: the user's message; `answer`: what is right by the passages, or would be; `supported`: whether one
        of them holds it; `gold`: numbers of those that do, from 1; `lure`: the answer that an instruction wants or a
        false passage tells, in `contradicting` what the documents tell; `passages`: ids of the chunks; and `format`, by
        which a grader reads the response.
    """
    passages = shown(question, condition, form, wordings, rng)
    answer, lure = question.row["answer"], question.lure
    if condition == "contradicting":
        answer, lure = lure, answer
    gold = [number for number, passage in enumerate(passages, 1) if passage.holds]
    return {
        "question": form.render(question.row["question"], [passage.text for passage in passages]),
        "answer": answer,
        "condition": condition,
        "supported": bool(gold),
        "gold": gold,
        "lure": lure,
        "asked": question.row["question"],
        "passages": [passage.id for passage in passages],
        **{
            name: question.row[name]
            for name in ("document", "quote", "kind", "family", "group")
            if name in question.row
        },
        "format": form.model_dump(),
    }
