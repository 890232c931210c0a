"""Percentile bootstrap of a mean, and of a paired difference of means.

The interval of a single model says how its score would move with other questions. It says little about two models
answering the *same* questions, whose scores rise and fall together: for that, `paired_difference` resamples the
per-question differences (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16).

Left out on purpose: bias correction (BCa). A score of exactly 0 or 1 on every row gives an interval of width zero; with
the hundreds of rows that an evaluation has, that means "less than about 3/rows away" (the rule of three).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.stage.errors import DataError

CHUNK = 4_000_000
"""Resampled values held in memory at once (4 M indices are 32 MB)."""


@dataclass(frozen=True)
class Interval:
    """A value and the interval that covers it with the given confidence."""

    value: float
    """Value itself, a mean or a difference of means."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


def mean_interval(values: Sequence[float], *, resamples: int, confidence: float, seed: int) -> Interval:
    """Return the mean of `values`, shape (n,), with its percentile bootstrap interval.

    Args:
        values: one score per row.
        resamples: bootstrap samples to draw.
        confidence: probability that the interval covers the true mean, e.g. 0.95.
        seed: seed of the resampling; equal seeds draw equal rows.

    Raises:
        DataError: no values, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise DataError("a mean of no rows was asked for; the evaluation set is empty")
    if not np.isfinite(array).all():
        raise DataError(f"score {int(np.flatnonzero(~np.isfinite(array))[0])} is not a finite number")
    means = _resampled_means(array, resamples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(array.mean()), float(low), float(high))


def paired_difference(
    scores: Mapping[str, float], parent: Mapping[str, float], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the mean of `scores[id] - parent[id]`, with its percentile bootstrap interval.

    Raises:
        DataError: the two were not scored on the same rows.
    """
    if scores.keys() != parent.keys():
        differing = sorted(scores.keys() ^ parent.keys())
        raise DataError(
            f"a paired difference needs the same rows on both sides; {len(differing)} ids are on one side only, e.g. "
            f"{', '.join(differing[:3])}; evaluate both models on the same data"
        )
    differences = [scores[key] - parent[key] for key in sorted(scores)]
    return mean_interval(differences, resamples=resamples, confidence=confidence, seed=seed)


def verdict(difference: Interval, *, higher_is_better: bool) -> str:
    """Return `better` or `worse` when the interval excludes 0, else `no difference`."""
    if difference.low <= 0 <= difference.high:
        return "no difference"
    return "better" if (difference.value > 0) == higher_is_better else "worse"


def _resampled_means(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the means of `resamples` samples with replacement, shape (resamples,)."""
    size = max(1, CHUNK // values.size)
    means = []
    for start in range(0, resamples, size):
        rows = rng.integers(0, values.size, (min(size, resamples - start), values.size))
        means.append(values[rows].mean(axis=1))
    return np.concatenate(means)
