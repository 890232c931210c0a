"""Scores beside those with other pictures: differences by row, groups, and which of them are answered blind."""

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.evaluation import pictures

SETTINGS: Any = SimpleNamespace(resamples=500, confidence=0.95, seed=0)
ROWS = [{"id": f"q{i}", "kind": "sum" if i % 2 else "which", "side": "" if i < 20 else "left=1"} for i in range(40)]


def scored(right: list[bool], metric: str = "exact_match") -> list[dict[str, Any]]:
    return [{"id": row["id"], "scores": {metric: float(value)}} for row, value in zip(ROWS, right, strict=True)]


def compare(own: list[bool], **controlled: list[bool]) -> dict[str, Any]:
    controls = {name: scored(right) for name, right in controlled.items()}
    return pictures.compare(ROWS, ["kind", "side"], scored(own), controls, {"exact_match": True}, SETTINGS)


def test_a_group_that_is_answered_without_its_pictures_is_named() -> None:
    """Sums are seen. The others are guessed with black, and not with noise."""
    sums = [row["kind"] == "sum" for row in ROWS]
    found = compare([True] * 40, noise=[False] * 40, black=[not is_sum for is_sum in sums])
    assert found["answered_blind"] == {"kind=which": ["black"]}
    assert set(found["controls"]) == {"all", "kind=sum", "kind=which", "side=", "side=left=1"}
    assert found["controls"]["kind=sum"]["black"]["exact_match"]["difference"] == 1.0
    black = found["controls"]["all"]["black"]["exact_match"]
    assert (black["value"], black["difference"]) == (0.5, 0.5)
    assert 0.3 < black["low"] < 0.5 < black["high"] < 0.7


def test_a_difference_within_its_interval_is_no_sight() -> None:
    """Right in 21 of 40 rows with the picture and in 20 without: chance."""
    own, other = [i % 40 < 21 for i in range(40)], [i % 40 >= 20 for i in range(40)]
    assert compare(own, other=other)["answered_blind"]["all"] == ["other"]


def test_rows_are_compared_in_pairs() -> None:
    """The control's answers may come in any order: each row's is taken off its own."""
    own = [i % 2 == 0 for i in range(40)]
    controlled = {"noise": list(reversed(scored(own)))}
    found = pictures.against(scored(own), controlled["noise"], SETTINGS)
    assert found == {"exact_match": {"value": 0.5, "difference": 0.0, "low": 0.0, "high": 0.0}}


@pytest.mark.parametrize(("loss", "blind"), [(0.5, False), (2.0, True), (1.0, True)])
def test_of_a_loss_less_is_better(loss: float, blind: bool) -> None:
    own, other = ([{"id": row["id"], "scores": {"nats": nats}} for row in ROWS] for nats in (loss, 1.0))
    found = pictures.compare(ROWS, [], own, {"other": other}, {"nats": False}, SETTINGS)
    assert ("all" in found["answered_blind"]) == blind


def test_the_first_metric_decides() -> None:
    own = [{**row, "scores": {"exact_match": 1.0, "courteous": 1.0}} for row in scored([True] * 40)]
    other = [{**row, "scores": {"exact_match": 0.0, "courteous": 1.0}} for row in scored([True] * 40)]
    higher = {"courteous": True, "exact_match": True}
    found = pictures.compare(ROWS, [], own, {"other": other}, higher, SETTINGS)
    assert found["answered_blind"] == {}
    assert found["controls"]["all"]["other"]["courteous"]["difference"] == 0.0
