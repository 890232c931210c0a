"""Is an answer grounded: right under each condition, its passage cited, and none given where no passage holds it?

No judge is asked. A citation is right where the passage of that number holds the answer, and a quote where it stands
word for word in a passage that the answer cites and that holds the answer (ALCE, arXiv:2305.14627, has citation
precision and recall, there by a model of entailment). An answer where the answer is not shown counts as wrongly given,
whatever it says; abstaining is right there and wrong elsewhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluation.pictures import Resampling
from tasks.retrieval.answered import CONDITIONS, Answered
from tasks.retrieval.ratios import mean, ratio, share

CITED = ("retrieved", "gold")
"""Conditions whose citations are counted: the passages are the documents' own, and may hold the answer."""
JUDGED = ("retrieved", "gold", "wrong", "removed")
"""Conditions in which to answer or to abstain is judged, by whether a passage shown holds the answer."""


def grounding(rows: Sequence[Answered], texts: Mapping[str, str], settings: Resampling) -> dict[str, Any]:
    """Count how well answers rest on what was shown.

    Args:
        rows: of one task, under all conditions.
        texts: chunk id to its text.
        settings: of the intervals.

    Returns:
        `conditions` (condition to `rows` and the means `exact_match`, `f1`, `abstained`), `citations` and
        `abstention`.
    """
    by_condition = {name: [row for row in rows if row.condition == name] for name in CONDITIONS}
    return {
        "conditions": {name: _condition(held, settings) for name, held in by_condition.items() if held},
        "citations": citations([row for name in CITED for row in by_condition[name]], texts, settings),
        "abstention": abstention([row for name in JUDGED for row in by_condition[name]], settings),
    }


def _condition(rows: Sequence[Answered], settings: Resampling) -> dict[str, Any]:
    means = {name: mean(rows, lambda row, name=name: row.scores[name], settings) for name in ("exact_match", "f1")}  # type: ignore[misc]
    return {"rows": len(rows), **means, "abstained": share(rows, lambda row: row.reply.abstained, settings)}


def citations(rows: Sequence[Answered], texts: Mapping[str, str], settings: Resampling) -> dict[str, Any]:
    """Count the citations of the rows that were answered.

    Args:
        rows: whose passages are chunks.
        texts: chunk id to its text.
        settings: of the intervals.

    Returns:
        `answered`, the rows that were; `precision`, the share of the passages they cite that hold the answer;
        `recall`, the share of them that cite such a passage, where one was shown; `quoted`, the share of those with a
        quote whose quote stands in a cited passage that holds the answer. A share of nothing is None.
    """
    answered = [row for row in rows if not row.reply.abstained]
    shown = [row for row in answered if row.gold]
    quoting = [row for row in answered if row.reply.quote]
    return {
        "answered": len(answered),
        "precision": ratio(answered, lambda row: len(_right(row)), lambda row: len(set(row.reply.cited)), settings),
        "recall": share(shown, lambda row: bool(_right(row)), settings),
        "quoted": share(quoting, lambda row: is_quoted(row, texts), settings),
    }


def is_quoted(row: Answered, texts: Mapping[str, str]) -> bool:
    """Whether the quote of an answer stands in a passage that it cites and that holds the answer, white space aside."""
    quote = " ".join((row.reply.quote or "").split())
    return bool(quote) and any(quote in " ".join(texts[row.shown[number - 1]].split()) for number in _right(row))


def _right(row: Answered) -> set[int]:
    """Numbers of the passages that are cited and hold the answer."""
    return set(row.reply.cited) & row.gold


def abstention(rows: Sequence[Answered], settings: Resampling) -> dict[str, Any]:
    """Count where no answer was given.

    Args:
        rows: that show passages, with or without one that holds the answer.
        settings: of the intervals.

    Returns:
        `answerable` and `unanswerable` (rows with and without such a passage), `precision`, `recall` and `f1` of
        abstaining, `wrongly` (share of the answerable ones without an answer) and `invented` (of the unanswerable ones
        with one). A share of nothing is None.
    """
    answerable = [row for row in rows if row.gold]
    unanswerable = [row for row in rows if not row.gold]

    def said(row: Answered) -> float:
        return float(row.reply.abstained)

    def rightly(row: Answered) -> float:
        return float(row.reply.abstained and not row.gold)

    return {
        "answerable": len(answerable),
        "unanswerable": len(unanswerable),
        "precision": ratio(rows, rightly, said, settings),
        "recall": share(unanswerable, lambda row: row.reply.abstained, settings),
        "f1": ratio(rows, lambda row: 2 * rightly(row), lambda row: said(row) + (not row.gold), settings),
        "wrongly": share(answerable, lambda row: row.reply.abstained, settings),
        "invented": share(unanswerable, lambda row: not row.reply.abstained, settings),
    }
