"""The look for reward hacking, which the stages that learn from rewards share.

A grader of weight 0 is tracked and not optimised. That is how the gold metric stands beside the reward in every curve:
TRL logs `rewards/<name>/mean` of both on the same samples. A run whose reward rises while its gold metric falls has
learnt to please the grader and not the user (Gao et al., arXiv:2210.10760); it is flagged in `reward.json` and shown
so on the report page.
"""

import logging
import math
from pathlib import Path
from typing import Any

from tasks.rewards.composite import Rewards
from tasks.stage import artifact
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run

log = logging.getLogger("polm")


def check_gold(where: Path, gold: str | None, rewards: Rewards) -> None:
    """Raises ConfigError when `gold` names no grader of the recipe."""
    if gold is not None and gold not in rewards.names:
        raise ConfigError(f"{where}: gold is '{gold}', which is no grader{suggest(gold, rewards.names)}")


def write_rl_report(run: Run, rewards: Rewards, gold: str | None) -> None:
    """Write `reward.json`: what was paid for, how reward and gold moved, how often graders raised, and the verdict.

    To be called after `curves.jsonl` was written: all of it is read from there, so that a run which was killed and went
    on says the same as one that was not.
    """
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    graders: dict[str, dict[str, Any]] = {
        name: {
            "weight": weight,
            "raised": _mean(curve, f"raised/{name}"),
            "trend": trend(curve, f"rewards/{name}/mean"),
        }
        for name, weight in zip(rewards.names, rewards.weights, strict=True)
    }
    total = trend(curve, "reward")
    for name, used in rewards.usage().items():
        log.info("the judge of graders.%s took since this process began: %s", name, used)
    flagged = gold is not None and hacked(total, graders[gold]["trend"])
    if flagged:
        log.warning("warning: the reward rose while '%s' fell on the same samples: the reward was hacked", gold)
    artifact.write_json(
        run.out / "reward.json",
        {"gold": gold, "graders": graders, "trend": total, "hacked": flagged, "kl": last(curve, "kl")},
    )


def _mean(curve: list[dict[str, Any]], key: str) -> float:
    """Compute the mean of a series; 0 where it was never logged."""
    values = [row[key] for row in curve if key in row]
    return round(sum(values) / len(values), 6) if values else 0.0


def last(curve: list[dict[str, Any]], key: str) -> float | None:
    """Return the last value of a series, None where it was never logged."""
    return next((row[key] for row in reversed(curve) if key in row), None)


def trend(curve: list[dict[str, Any]], key: str) -> dict[str, float] | None:
    """Fit a series over the steps by ordinary least squares; None with fewer than four points.

    Returns:
        `start` and `end` of the fitted line, in the series' unit, and `t`, the slope over its standard error.
    """
    points = [(float(row["step"]), float(row[key])) for row in curve if key in row and "step" in row]
    if len(points) < 4:
        return None
    n = len(points)
    mean_x, mean_y = (sum(values) / n for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    residual = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    error = math.sqrt(residual / (n - 2) / spread)
    start, end = (mean_y + slope * (x - mean_x) for x in (points[0][0], points[-1][0]))
    t = slope / error if error > 1e-12 * max(abs(slope), 1e-12) else math.copysign(1e6, slope) if slope else 0.0
    return {"start": round(start, 6), "end": round(end, 6), "t": round(max(-1e6, min(1e6, t)), 4)}


def hacked(reward: dict[str, float] | None, gold: dict[str, float] | None) -> bool:
    """Tell whether the reward rose and the gold metric fell, both by more than two standard errors of their slopes."""
    return bool(reward and gold and reward["t"] > 2 and gold["t"] < -2)
