"""Questions about pictures in lm-evaluation-harness's terms, and scores of a model against itself without eyes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tasks.grading.bootstrap import paired_difference
from tasks.multimodal.controls import REVERSED

MARK = "\ufffcpicture\ufffc"
"""Stands in a question's text where a picture is shown.

Unicode's OBJECT REPLACEMENT CHARACTER alone would not do: it is in texts that were copied out of documents.
"""
WHOLE = "all"
"""Group of all rows."""

Samples = Sequence[Mapping[str, Any]]


class Resampling(Protocol):
    """Settings of an interval, as an evaluate.yaml has them."""

    @property
    def resamples(self) -> int:
        """Bootstrap samples."""

    @property
    def confidence(self) -> float:
        """Coverage, 0 to 1."""

    @property
    def seed(self) -> int:
        """Seed of the resampling."""


def compare(
    rows: Sequence[Mapping[str, Any]],
    group_by: Sequence[str],
    answered: Samples,
    controlled: Mapping[str, Samples],
    higher_is_better: Mapping[str, bool],
    settings: Resampling,
) -> dict[str, Any]:
    """Compare a model's answers with those that it gives to other pictures, for all rows and each group of them.

    Args:
        rows: the questions.
        group_by: columns whose values are compared apart too.
        answered: answers to the questions with their pictures.
        controlled: control to the answers under it.
        higher_is_better: metric to whether more of it is better.
        settings: of the intervals.

    Returns:
        `controls`: group (`all`, `kind=sum`) to control to `rows`, how many it could be shown for, and metric to what
        `against` gives (a control that can be shown for no row is left out); `answered_blind`: each
        group that is answered as well, to the interval of its first metric (`judged_by`), under some control, with
        these controls.
        A clip reversed is no such control: there the other answer is right.
    """
    groups = {WHOLE: list(range(len(rows)))}
    for column in group_by:
        for value in sorted({str(row[column]) for row in rows}):
            groups[f"{column}={value}"] = [i for i, row in enumerate(rows) if str(row[column]) == value]
    controls: dict[str, dict[str, Any]] = {group: {} for group in groups}
    for group, numbers in groups.items():
        for name, samples in controlled.items():
            shown = [i for i in numbers if not samples[i].get("uncontrolled")]
            if shown:
                compared = against([answered[i] for i in shown], [samples[i] for i in shown], settings)
                controls[group][name] = {"rows": len(shown), **compared}
    metric = next(iter(answered[0]["scores"]))

    def sees(interval: Mapping[str, float]) -> bool:
        return interval["low"] > 0 if higher_is_better[metric] else interval["high"] < 0

    blind = {
        group: names
        for group, by_control in controls.items()
        if (names := [name for name, by in by_control.items() if name != REVERSED and not sees(by[metric])])
    }
    return {"controls": controls, "answered_blind": blind, "judged_by": metric}


def against(own: Samples, controlled: Samples, settings: Resampling) -> dict[str, dict[str, float]]:
    """Compare the scores of questions with those of the same questions under a control.

    Args:
        own: answers to the questions with their pictures.
        controlled: answers to the questions with others.
        settings: of the interval.

    Returns:
        Metric to `value` (the mean under the control) and the paired `difference`, `low` and `high` of own less that.
    """
    compared = {}
    for metric in own[0]["scores"]:
        sides = [{row["id"]: row["scores"][metric] for row in side} for side in (own, controlled)]
        difference = paired_difference(
            *sides, resamples=settings.resamples, confidence=settings.confidence, seed=settings.seed
        )
        mean = sum(sides[1].values()) / len(sides[1])
        compared[metric] = {
            "value": round(mean, 6),
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
        }
    return compared
