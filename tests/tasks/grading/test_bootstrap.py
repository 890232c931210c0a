"""Bootstrap intervals: known values, coverage, pairing."""

import numpy as np
import pytest

from tasks.grading import bootstrap
from tasks.grading.bootstrap import Interval, mean_interval, paired_difference, verdict
from tasks.stage.errors import DataError

SETTINGS = {"resamples": 1000, "confidence": 0.95, "seed": 0}


def test_interval_of_a_proportion_matches_the_normal_approximation() -> None:
    interval = mean_interval([1.0] * 300 + [0.0] * 100, resamples=20_000, confidence=0.95, seed=1)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert interval.value == 0.75
    assert interval.low == pytest.approx(0.75 - half, abs=0.005)
    assert interval.high == pytest.approx(0.75 + half, abs=0.005)


def test_interval_widens_with_confidence() -> None:
    values = list(np.random.default_rng(0).normal(size=200))
    narrow = mean_interval(values, resamples=1000, confidence=0.5, seed=0)
    wide = mean_interval(values, resamples=1000, confidence=0.99, seed=0)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(400):
        values = (rng.random(150) < 0.3).astype(float)
        interval = mean_interval(list(values), resamples=400, confidence=0.9, seed=trial)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.86 <= hits / 400 <= 0.94


def test_same_seed_same_interval_other_seed_another() -> None:
    values = list(np.random.default_rng(0).normal(size=50))
    assert mean_interval(values, **SETTINGS) == mean_interval(values, **SETTINGS)  # type: ignore[arg-type]
    assert mean_interval(values, **SETTINGS) != mean_interval(values, **{**SETTINGS, "seed": 1})  # type: ignore[arg-type]


def test_chunks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(0).normal(size=50))
    whole = mean_interval(values, resamples=1000, confidence=0.95, seed=0)
    monkeypatch.setattr(bootstrap, "CHUNK", 50 * 7)
    assert mean_interval(values, resamples=1000, confidence=0.95, seed=0) == whole


def test_pairing_sees_a_difference_that_separate_intervals_hide() -> None:
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 10, 200)
    parent = {f"q{i}": float(v) for i, v in enumerate(hard)}
    child = {f"q{i}": float(v) + 0.5 + float(rng.normal(0, 0.5)) for i, v in enumerate(hard)}
    a = mean_interval(list(parent.values()), resamples=1000, confidence=0.95, seed=0)
    b = mean_interval(list(child.values()), resamples=1000, confidence=0.95, seed=0)
    assert a.high > b.low, "seen apart, nothing can be said"
    difference = paired_difference(child, parent, resamples=1000, confidence=0.95, seed=0)
    assert difference.low > 0
    assert difference.value == pytest.approx(b.value - a.value)


def test_pairing_goes_by_id_and_not_by_order() -> None:
    parent = {"a": 0.0, "b": 1.0, "c": 5.0}
    child = {"c": 5.0, "b": 1.0, "a": 0.0}
    assert paired_difference(child, parent, resamples=100, confidence=0.95, seed=0) == Interval(0.0, 0.0, 0.0)


def test_other_rows_are_an_error_that_names_them() -> None:
    with pytest.raises(DataError, match=r"2 ids are on one side only, e\.g\. a, c"):
        paired_difference({"a": 1.0, "b": 1.0}, {"b": 1.0, "c": 1.0}, resamples=10, confidence=0.95, seed=0)


@pytest.mark.parametrize(("values", "message"), [([], "no rows"), ([1.0, float("nan")], "score 1 is not a finite")])
def test_impossible_values(values: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        mean_interval(values, resamples=10, confidence=0.95, seed=0)


@pytest.mark.parametrize(
    ("low", "value", "high", "higher", "expected"),
    [
        (0.1, 0.2, 0.3, True, "better"),
        (-0.3, -0.2, -0.1, True, "worse"),
        (-0.3, -0.2, -0.1, False, "better"),
        (0.1, 0.2, 0.3, False, "worse"),
        (-0.1, 0.1, 0.3, True, "no difference"),
        (0.0, 0.1, 0.2, True, "no difference"),
    ],
)
def test_verdict(low: float, value: float, high: float, higher: bool, expected: str) -> None:
    assert verdict(Interval(value, low, high), higher_is_better=higher) == expected
