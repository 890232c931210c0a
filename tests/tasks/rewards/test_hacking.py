"""The stages that learn from rewards and from single answers, on a real small model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.rewards import hacking
from tasks.rewards.composite import Rewards
from tasks.stage import artifact
from tests.support.rewards import LIKES_ODD, graders

MakeRun = Callable[..., Any]


def series(*values: float) -> list[dict[str, Any]]:
    return [{"step": i + 1, "reward": v} for i, v in enumerate(values)]


def test_trend_is_the_least_squares_line() -> None:
    line = hacking.trend(series(1.0, 2.1, 2.9, 4.0), "reward")
    assert line is not None
    assert line["start"] == pytest.approx(1.03)
    assert line["end"] == pytest.approx(3.97)
    assert line["t"] > 10
    assert hacking.trend(series(1.0, 2.0, 3.0), "reward") is None
    flat = hacking.trend(series(1.0, 1.0, 1.0, 1.0), "reward")
    assert flat is not None
    assert flat["t"] == 0


def test_a_rising_reward_with_a_falling_gold_metric_is_flagged(make_run: MakeRun) -> None:
    run = make_run("ppo")
    rewards = Rewards(graders(odd=LIKES_ODD | {"weight": 0.0}), Path("params/test.yaml"))
    for gold, flagged in ((-1, True), (1, False)):
        curve = [{"step": i, "reward": 0.1 * i, "rewards/odd/mean": 0.5 + gold * 0.01 * i, "kl": 0.2} for i in range(8)]
        artifact.write_jsonl(run.out / "curves.jsonl", curve)
        hacking.write_rl_report(run, rewards, "odd")
        report = artifact.read_json(run.out / "reward.json")
        assert report["hacked"] is flagged
        assert report["kl"] == 0.2
