"""The judge stage: a model learns to name the better answer, in both orders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tasks import judge
from tasks.judges.local import LocalJudge
from tasks.judges.protocol import Constitution
from tasks.stage import artifact
from tasks.stage.config import parse
from tests.conftest import TRAINER
from tests.support.judges import CONSTITUTION


def test_the_judge_stage_learns_both_orders(
    make_run: Callable[[str], Any], workspace: Path, chat_model: Path, sums_data: Path
) -> None:
    run = make_run("judge")
    (workspace / "params/test/judge").mkdir(parents=True)
    artifact.write_json(workspace / "params/test/judge/constitution.yaml", CONSTITUTION.model_dump(mode="json"))
    values = {
        "seed": 1,
        "threads": 2,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": "preferences",
        "constitution": "judge/constitution.yaml",
        "peft": None,
        "trainer": TRAINER
        | {"max_steps": 12, "save_steps": 12, "max_length": 256, "assistant_only_loss": True, "learning_rate": 3e-3},
    }
    folder = run.checkpoints
    judge.main(parse(Path("judge.yaml"), values, judge.Config), run, model=chat_model, data=sums_data)
    assert run.checkpoints != folder, "another constitution must not resume from this one's checkpoints"
    assert run.checkpoints.parent == folder.parent
    kept = Constitution.model_validate(artifact.read_json(run.out / "constitution.json"))
    assert kept == CONSTITUTION
    audit = artifact.read_json(run.out / "supervision.json")
    assert audit["rows"] == 2 * 64
    assert [part["text"] for part in audit["example"] if part["trained"]] == ["A<|im_end|>"]
    before, after = load_file(chat_model / "model.safetensors"), load_file(run.out / "model.safetensors")
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    losses = [row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 2, "it has learnt to reply with a label"
    trained = LocalJudge(run.out, ("A", "B"), batch_size=2, device="cpu", dtype="float32", chat_template_args={})
    assert trained(["Which is better?"])[0] is not None
