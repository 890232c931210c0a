"""Questions about pictures in lm-evaluation-harness's terms, and scores of a model against itself without eyes."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.grading.bootstrap import paired_difference

MARK = "\ufffc"
"""Stands in a question's text where a picture is shown (Unicode's OBJECT REPLACEMENT CHARACTER)."""

Samples = Sequence[Mapping[str, Any]]


def against(
    own: Samples, controlled: Samples, *, resamples: int, confidence: float, seed: int
) -> dict[str, dict[str, float]]:
    """Compare the scores of questions with those of the same questions under a control.

    Args:
        own: answers to the questions with their pictures.
        controlled: answers to the questions with others.
        resamples: bootstrap samples of the interval.
        confidence: its coverage, 0 to 1.
        seed: of the resampling.

    Returns:
        Metric to `value` (the mean under the control) and the paired `difference`, `low` and `high` of own less that.
    """
    compared = {}
    for metric in own[0]["scores"]:
        sides = [{row["id"]: row["scores"][metric] for row in side} for side in (own, controlled)]
        difference = paired_difference(*sides, resamples=resamples, confidence=confidence, seed=seed)
        mean = sum(sides[1].values()) / len(sides[1])
        compared[metric] = {
            "value": round(mean, 6), "difference": difference.value, "low": difference.low, "high": difference.high,
        }  # fmt: skip
    return compared


def answered_blind(controls: Mapping[str, Mapping[str, Mapping[str, float]]], metric: str) -> list[str]:
    """Name the controls under which the questions are answered as well, to the interval. Args: metric: that counts."""
    return [name for name, metrics in controls.items() if metrics[metric]["low"] <= 0]
