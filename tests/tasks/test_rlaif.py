"""The rlaif stage: a model learns from what a judge labelled, and reports the judge's figures with its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import label, rlaif
from tasks.stage import artifact
from tasks.stage.config import parse
from tests.conftest import TRAINER
from tests.support.label import config


@pytest.mark.slow
def test_every_weight_learns_from_the_labels(
    make_run: Callable[[str], Any], judge_of_length: None, chat_model: Path, judge: Path, prompts: Path
) -> None:
    labels = make_run("labels")
    label.main(config(), labels, model=chat_model, judge=judge, data=prompts)
    trained = make_run("rlaif")
    losses: dict[str, Any] = {"beta": 0.5, "loss_type": ["sigmoid"], "max_steps": 6, "save_steps": 6}
    method = {
        "seed": 1,
        "threads": 2,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": "preferences",
        "peft": None,
    }
    settings = parse(Path("params/test/rlaif.yaml"), {**method, "trainer": TRAINER | losses}, rlaif.Config)
    rlaif.main(settings, trained, model=chat_model, labels=labels.out)
    before, after = (load_file(folder / "model.safetensors") for folder in (chat_model, trained.out))
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    figures = artifact.read_json(trained.out / "metrics.json")
    assert figures["judge_labelled"] == artifact.read_json(labels.out / "judge.json")["labelled"]
    assert figures["judge_length_bias"] == 0.0
    assert "judge_judge" not in figures
    curve = [row["loss"] for row in artifact.read_jsonl(trained.out / "curves.jsonl") if "loss" in row]
    assert curve[-1] < curve[0]
