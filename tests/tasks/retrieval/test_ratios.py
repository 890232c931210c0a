"""Ratios with intervals that draw questions and not rows, and differences of the same questions."""

import pytest

from tasks.retrieval.ratios import mean, paired, ratio, share
from tests.support.grounded import SETTINGS, answered


def test_rows_of_one_question_are_drawn_together() -> None:
    apart = [answered(f"q{n}", exact_match=float(n % 2)) for n in range(40)]
    together = [answered(f"q{n % 10}", exact_match=float(n % 10 % 2)) for n in range(40)]
    wide, narrow = (mean(rows, lambda row: row.scores["exact_match"], SETTINGS) for rows in (together, apart))
    assert wide is not None
    assert narrow is not None
    assert wide["value"] == narrow["value"] == 0.5
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"]), "ten questions say less than forty"


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    rows = [answered("a", gold=[1, 2]), answered("b", gold=[1])]
    found = ratio(rows, lambda row: float(row.asked == "b"), lambda row: len(row.gold), SETTINGS)
    assert found is not None
    assert found["value"] == pytest.approx(1 / 3)
    assert found == ratio(rows, lambda row: float(row.asked == "b"), lambda row: len(row.gold), SETTINGS)


def test_draws_without_a_denominator_are_left_out() -> None:
    rows = [answered("a", gold=[1]), *(answered(f"q{n}") for n in range(5))]
    found = ratio(rows, lambda row: len(row.gold), lambda row: len(row.gold), SETTINGS)
    assert found == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert share([], lambda row: True, SETTINGS) is None


def test_a_question_with_several_rows_counts_once_in_a_difference() -> None:
    attacked = [answered("a", exact_match=1.0), answered("a", exact_match=0.0), answered("b", exact_match=0.0)]
    calm = [answered("a", exact_match=1.0), answered("b", exact_match=1.0), answered("c", exact_match=1.0)]
    found = paired(attacked, calm, lambda row: row.scores["exact_match"], SETTINGS)
    assert found is not None
    assert (found["questions"], found["value"]) == (2, pytest.approx(-0.75))
