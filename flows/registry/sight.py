"""Whether a model that sees looks at its pictures, or one that hears listens: its score against its own with another.

A score alone says nothing of sight, since some questions have a likely answer. The evaluation asks every question again
under controls (docs/multimodal.md); the gate reads the paired interval of the served form's answers.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tasks.multimodal.controls import Control
from tasks.stage.config import Strict

WHOLE = "all"
"""The group of all rows, as results call it."""


class Sight(Strict):
    """Least distance from the score with other pictures."""

    control: Control
    """What is shown in place of each question's own pictures: `other`, `noise`, `black`, …"""
    gain: float = Field(gt=0)
    """Least that the score must lie above the one under the control, at the interval's low end, in its unit."""


def judge(controls: Mapping[str, Any], metric: str, higher_is_better: bool, sight: Sight) -> tuple[bool, str]:
    """Judge a score by its control.

    Args:
        controls: task to the `controls` of its results.
        metric: `task.metric`.
        higher_is_better: direction of the metric.
        sight: the policy.

    Returns:
        Whether it passes, and what was found.
    """
    task, _, name = metric.partition(".")
    found = controls.get(task, {}).get(WHOLE, {}).get(sight.control)
    if found is None:
        return False, f"{task} was not asked under '{sight.control}'; add it to the task's `controls`, and `polm run`"
    by = found[name]
    low, high, difference = by["low"], by["high"], by["difference"]
    if not higher_is_better:
        low, high, difference = -high, -low, -difference
    shown = f"{difference:+.4f} [{low:+.4f}, {high:+.4f}] on {found['rows']} rows; {by['value']:.4f} with it"
    return low >= sight.gain, shown
