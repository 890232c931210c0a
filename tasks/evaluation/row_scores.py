"""What each row gives to a score, so that every score is a mean of rows, whatever it is computed by.

Whether one model is better than another is decided by an interval of a mean of differences by row. A perplexity, an F1
or the mean of a group's tasks is no mean of rows. Its rows get the values of the centred jackknife: n rows, of which
row i left out gives the statistic s(-i), have

    score(i) = s + (n - 1) * (mean of all s(-j) - s(-i))

Their mean is the statistic itself, and their spread that of the delete-one jackknife, which is the statistic's own
where it is smooth (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11). Of a mean they are the
rows' own values.
"""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np


def row_scores(values: Sequence[Any], aggregate: Callable[[Sequence[Any]], float], *, mean: bool) -> list[float]:
    """Return a score of each row, whose mean is the aggregate of all.

    Args:
        values: of each row, as the aggregate takes them: numbers, or what a statistic is made of.
        aggregate: makes the statistic of them.
        mean: whether that is the mean; rows keep their values then.
    """
    if mean and all(isinstance(value, (Real, np.number, bool)) for value in values):
        return [float(value) for value in values]
    whole = float(aggregate(values))
    if len(values) == 1:
        return [whole]
    without = np.array([float(aggregate([*values[:i], *values[i + 1 :]])) for i in range(len(values))])
    return [float(score) for score in whole + (len(values) - 1) * (without.mean() - without)]


def weighted(scores: Sequence[Sequence[float]], by_size: bool) -> list[list[float]]:
    """Scale the scores of several tasks so that the mean over all rows is the mean of the group.

    Args:
        scores: of each task, by row.
        by_size: whether a task counts by its rows, which leaves all scores as they are, or as much as any other.
    """
    if by_size:
        return [list(rows) for rows in scores]
    total = sum(map(len, scores))
    return [[score * total / (len(scores) * len(rows)) for score in rows] for rows in scores]
