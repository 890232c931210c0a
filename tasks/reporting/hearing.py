"""The report's look at models that hear: word error rates by voice, and scores beside those with other sounds."""

from collections.abc import Mapping
from typing import Any

from tasks.evaluation.pictures import WHOLE
from tasks.multimodal.controls import HEARD
from tasks.reporting import sight

OWN = "own"
"""Key of the rates with the rows' own sounds."""


def rates(leaderboard: Mapping[str, Any], models: list[str]) -> list[dict[str, Any]]:
    """List the pooled word error rates of each model.

    Args:
        leaderboard: content of `leaderboard.json`.
        models: names of the models, in order.

    Returns:
        `model`, `task`, `group`, `value`, `low`, `high`, `words`, and `by` (control to the rate under it).
    """
    rows = []
    for model in models:
        for task, result in leaderboard["models"][model]["tasks"].items():
            by_sound = result.get("word_error_rate", {})
            for group, rate in by_sound.get(OWN, {}).items():
                by = {control: by_sound[control][group]["value"] for control in HEARD if control in by_sound}
                rows.append({"model": model, "task": task, "group": group, **rate, "by": by})
    return rows


def controls(leaderboard: Mapping[str, Any], models: list[str]) -> list[dict[str, Any]]:
    """List what each model scores in questions about sounds, and with other sounds, as `sight.controls` does."""
    rows = []
    for row in sight.compared(leaderboard, models):
        if row["group"] == WHOLE and sight.heard(leaderboard["models"][row["model"]]["tasks"][row["task"]]):
            deaf = row["blind"]
            rows.append({**row, "verdict": f"no better than with {', '.join(deaf)}" if deaf else "heard"})
    return rows
