"""Scores of rows whose mean is the statistic of all rows, whatever it is."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tasks.evaluation.row_scores import row_scores, weighted
from tasks.grading.bootstrap import mean_interval


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def perplexity(values: Sequence[tuple[float, int]]) -> float:
    return math.exp(-sum(nats for nats, _ in values) / sum(words for _, words in values))


def test_rows_of_a_mean_keep_their_values() -> None:
    assert row_scores([1, 0, True], mean, mean=True) == [1.0, 0.0, 1.0]
    assert row_scores([1, 0, True], mean, mean=False) == pytest.approx([1.0, 0.0, 1.0])
    lists = [[True, False], [True], [False]]
    assert mean(row_scores(lists, lambda rows: mean([x for row in rows for x in row]), mean=True)) == pytest.approx(0.5)


def test_the_mean_of_the_scores_is_the_statistic_and_their_spread_its_own() -> None:
    """The spread is held against a bootstrap of the statistic itself, over 4,000 samples of 300 rows."""
    rng = np.random.default_rng(0)
    words = rng.integers(5, 60, 300)
    rows = [(-float(n * rng.normal(2.0, 0.5)), int(n)) for n in words]
    scores = row_scores(rows, perplexity, mean=False)
    assert mean(scores) == pytest.approx(perplexity(rows), rel=1e-12)
    drawn = [perplexity([rows[i] for i in rng.integers(0, 300, 300)]) for _ in range(4000)]
    interval = mean_interval(scores, resamples=4000, confidence=0.95, seed=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert interval.low == pytest.approx(low, abs=0.1 * width)
    assert interval.high == pytest.approx(high, abs=0.1 * width)


def test_one_row_has_the_statistic() -> None:
    assert row_scores([(-2.0, 1)], perplexity, mean=False) == [math.exp(2.0)]


def test_tasks_of_a_group_count_by_their_rows_or_alike() -> None:
    scores = [[1.0, 1.0, 1.0], [0.0]]
    assert weighted(scores, by_size=True) == scores
    alike = weighted(scores, by_size=False)
    assert mean([score for rows in alike for score in rows]) == pytest.approx(0.5)
