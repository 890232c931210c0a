"""The dpo stage: it comes to prefer the chosen answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import dpo
from tasks.stage import artifact
from tests.support.supervised import configured

MakeRun = Callable[..., Any]


def test_dpo_prefers_the_chosen_answers(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("dpo")
    losses: dict[str, Any] = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0], "max_steps": 16}
    dpo.main(configured(dpo, beta=0.5, **losses), run, model=chat_model, data=sums_data)
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["eval_rewards/margins"] > 0
    assert figures["eval_rewards/accuracies"] > 0.5
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert any("rewards/margins" in row for row in curve)
