"""Dynamic sampling: groups without a signal are drawn anew, and padded as the trainer pads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tasks import grpo
from tasks.stage import artifact
from tests.support.rl import grpo_config

MakeRun = Callable[..., Any]


def test_dynamic_sampling_replaces_groups_without_signal(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    kept = {}
    for rounds in (0, 4):
        run = make_run(f"grpo{rounds}")
        grpo.main(grpo_config(dynamic_sampling=rounds), run, model=chat_model, data=sums_data)
        kept[rounds] = artifact.read_jsonl(run.out / "curves.jsonl")
    assert "dynamic_sampling/replaced" not in kept[0][0]
    assert any(row.get("dynamic_sampling/replaced", 0) > 0 for row in kept[4])
    before = sum(row["frac_reward_zero_std"] for row in kept[0] if "reward" in row)
    after = sum(row["dynamic_sampling/still_empty"] for row in kept[4] if "reward" in row)
    assert after < before


def test_replaced_groups_are_padded_as_the_trainer_pads() -> None:
    from tasks.rl.grpo import _same_length

    short, long = torch.tensor([[5, 6]]), torch.tensor([[1, 2, 3]])
    assert _same_length(short, long, "prompt_ids", 9)[0].tolist() == [[9, 5, 6]]
    assert _same_length(short, long, "completion_ids", 9)[0].tolist() == [[5, 6, 9]]
    assert _same_length(short, long, "completion_mask", 9)[0].tolist() == [[5, 6, 0]]
