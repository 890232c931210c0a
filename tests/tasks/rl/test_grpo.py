"""Dynamic sampling: groups without a signal are drawn anew, and padded as the trainer pads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import grpo
from tasks.stage import artifact
from tests.support.rl import grpo_config

MakeRun = Callable[..., Any]


def test_dynamic_sampling_replaces_groups_without_signal(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("grpo")
    grpo.main(grpo_config(dynamic_sampling=4), run, model=chat_model, data=sums_data)
    steps = [row for row in artifact.read_jsonl(run.out / "curves.jsonl") if "reward" in row]
    assert any(row["dynamic_sampling/replaced"] > 0 for row in steps)
    for row in steps:  # TRL counts what was drawn, before anything is replaced
        empty = row["dynamic_sampling/replaced"] + row["dynamic_sampling/still_empty"]
        assert empty == pytest.approx(row["frac_reward_zero_std"])


def test_without_dynamic_sampling_nothing_is_replaced(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("grpo")
    grpo.main(grpo_config(dynamic_sampling=0), run, model=chat_model, data=sums_data)
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert any(row.get("frac_reward_zero_std", 0) > 0 for row in curve), "there would have been something to replace"
    assert not any(key.startswith("dynamic_sampling") for row in curve for key in row)


def test_replaced_groups_are_padded_as_the_trainer_pads() -> None:
    from tasks.rl.grpo import _same_length

    short, long = torch.tensor([[5, 6]]), torch.tensor([[1, 2, 3]])
    assert _same_length(short, long, "prompt_ids", 9)[0].tolist() == [[9, 5, 6]]
    assert _same_length(short, long, "completion_ids", 9)[0].tolist() == [[5, 6, 9]]
    assert _same_length(short, long, "completion_mask", 9)[0].tolist() == [[5, 6, 0]]
