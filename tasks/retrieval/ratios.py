"""Ratios of counts with an interval that resamples questions, and paired differences between conditions.

A question is asked under several conditions, and its rows rise and fall together: the bootstrap draws questions, with
all their rows (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). Precision, recall, F1
and means are all ratios of two sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tasks.evaluation.pictures import Resampling
from tasks.grading.bootstrap import paired_difference, verdict
from tasks.retrieval.answered import Answered

Count = Callable[[Answered], float]


def ratio(rows: Sequence[Answered], above: Count, below: Count, settings: Resampling) -> dict[str, float] | None:
    """Divide two sums over rows.

    Args:
        rows: of one or several conditions.
        above: what a row adds to the numerator.
        below: what it adds to the denominator, 0 or more.
        settings: of the interval.

    Returns:
        `value`, `low` and `high`; None where the denominator is 0, as the precision of what was never said. Drawn
        samples without a denominator are left out of the interval.
    """
    numbers: dict[str, int] = {}
    for row in rows:
        numbers.setdefault(row.asked, len(numbers))
    sums = np.zeros((2, len(numbers)))
    for row in rows:
        sums[:, numbers[row.asked]] += above(row), below(row)
    top, bottom = sums.sum(axis=1)
    if not bottom:
        return None
    drawn = np.random.default_rng(settings.seed).integers(0, len(numbers), (settings.resamples, len(numbers)))
    tops, bottoms = sums[0][drawn].sum(axis=1), sums[1][drawn].sum(axis=1)
    defined = bottoms > 0
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(tops[defined] / bottoms[defined], [tail, 1 - tail])
    return {
        key: round(float(value), 6)
        for key, value in zip(("value", "low", "high"), (top / bottom, low, high), strict=True)
    }


def mean(rows: Sequence[Answered], score: Count, settings: Resampling) -> dict[str, float] | None:
    """Average a score over rows, with its interval as `ratio` gives it; None for no rows."""
    return ratio(rows, score, lambda row: 1.0, settings)


def share(rows: Sequence[Answered], holds: Callable[[Answered], bool], settings: Resampling) -> dict[str, float] | None:
    """Count the rows of which something holds, as a share of them; None for no rows."""
    return mean(rows, lambda row: float(holds(row)), settings)


def paired(
    rows: Sequence[Answered], others: Sequence[Answered], score: Count, settings: Resampling
) -> dict[str, Any] | None:
    """Subtract the scores of the same questions under another condition.

    Args:
        rows: of one condition; a question may have several, whose mean counts.
        others: of the other condition.
        score: more of it is better.
        settings: of the interval.

    Returns:
        `value`, `low`, `high`, `verdict` and `questions`, those that both sides have; None where they share none.
    """
    ours, theirs = _by_question(rows, score), _by_question(others, score)
    both = ours.keys() & theirs.keys()
    if not both:
        return None
    difference = paired_difference(
        {query: ours[query] for query in both},
        {query: theirs[query] for query in both},
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    rounded = {key: round(value, 6) for key, value in asdict(difference).items()}
    return {**rounded, "verdict": verdict(difference, higher_is_better=True), "questions": len(both)}


def _by_question(rows: Sequence[Answered], score: Count) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row.asked, []).append(score(row))
    return {query: sum(values) / len(values) for query, values in scores.items()}
