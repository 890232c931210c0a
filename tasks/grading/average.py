"""Averages of several metrics, each over rows of its own: a merge of models is chosen by one, and judged by it.

The members of a merge are each good at something else, so that no single metric says whether the merge was worth it.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tasks.grading.bootstrap import Interval
from tasks.stage.errors import ArtifactError

Scores = dict[str, dict[str, float]]
"""Metric to the score of each row, by its id."""


def average(scores: Scores, weights: Mapping[str, float]) -> float:
    """Return the weighted mean of the metrics' means; the weights need not add up to 1."""
    total = math.fsum(weights.values())
    sums = {name: math.fsum(scores[name].values()) for name in weights}
    return math.fsum(weight * sums[name] / len(scores[name]) for name, weight in weights.items()) / total


def average_difference(
    ours: Scores, theirs: Scores, weights: Mapping[str, float], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the difference of two averages, with its percentile bootstrap interval.

    Both sides answered the same rows, so differences are resampled; the metrics have rows of their own, so each is
    resampled apart (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8).

    Args:
        ours: metric to scores, shape (rows of the metric,).
        theirs: the same metrics of the same rows.
        weights: of the metrics.
        resamples: bootstrap samples.
        confidence: coverage, 0 to 1.
        seed: equal seeds draw equal rows.

    Raises:
        ArtifactError: the two were not scored on the same rows.
    """
    rng = np.random.default_rng(seed)
    total = math.fsum(weights.values())
    mean_difference = 0.0
    resampled = np.zeros(resamples)
    for metric, weight in weights.items():
        if ours[metric].keys() != theirs[metric].keys():
            raise ArtifactError(f"{metric}: the two models answered different rows; run `polm run`")
        each = np.array([score - theirs[metric][row] for row, score in sorted(ours[metric].items())])
        mean_difference += weight / total * float(each.mean())
        resampled += weight / total * np.array([_resampled_mean(each, rng) for _ in range(resamples)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(mean_difference, float(low), float(high))


def _resampled_mean(values: NDArray[np.float64], rng: np.random.Generator) -> float:
    return float(values[rng.integers(0, values.size, values.size)].mean())
