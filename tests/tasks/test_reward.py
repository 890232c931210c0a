"""The reward stage: it tells the sides of a pair apart, and says how sure it is."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import reward
from tasks.stage import artifact
from tasks.stage.errors import DataError
from tests.support.supervised import configured

MakeRun = Callable[..., Any]


def test_reward_model_tells_the_sides_apart(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("reward")
    reward.main(configured(reward, max_steps=24, learning_rate=3e-3), run, model=chat_model, data=sums_data)
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["pair_accuracy_low"] <= figures["pair_accuracy"] <= figures["pair_accuracy_high"]
    assert figures["pair_accuracy"] > 0.6
    table = artifact.read_json(run.out / "calibration.json")
    assert sum(part["pairs"] for part in table) == 16
    assert all(0.5 <= part["predicted"] <= 1 for part in table)


def test_too_few_held_out_pairs_are_refused_before_training(
    make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    run = make_run("reward")
    config = configured(reward).model_copy(update={"calibration_bins": 99})
    with pytest.raises(DataError, match="16 held-out pairs for 99 calibration bins"):
        reward.main(config, run, model=chat_model, data=sums_data)
    assert not (run.out / "curves.jsonl").exists()


def test_calibration_bins_by_the_size_of_the_margin() -> None:
    table = reward.calibration([0.1, -0.1, 3.0, 3.0], 2)
    assert [part["observed"] for part in table] == [0.5, 1.0]
    assert table[1]["predicted"] == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-6)
    with pytest.raises(DataError, match=r"1 held-out pairs for 2"):
        reward.calibration([0.5], 2)
