"""`kill -9` in the middle of a training stage: nothing half-written, and the next run ends in the very same weights."""

import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.stage import artifact
from tests.conftest import TRAINER
from tests.support.kill import start, wait_for_step

pytestmark = pytest.mark.slow

STEPS = {"max_steps": 24, "save_steps": 8}
ODD = {"grader": "regex", "weight": 1.0, "options": {"pattern": "[13579]", "mode": "search"}}
SAMPLING = {"num_generations": 4, "max_completion_length": 6, "steps_per_generation": 1, "beta": 0.01}
HEALED = {
    "methods": {"magnitude": {"modifiers": None, "magnitude": 0.5, "drop_layers": None, "heal": True}},
    "calibration": {"dataset": "sft", "rows": 4, "max_length": 64},
    "held_out": {
        "answers": "sft", "answer_rows": 4, "prompts": "prompts", "prompt_rows": 4, "max_new_tokens": 8,
        "batch_size": 4, "chat_template_args": {},
    },
    "graders": {"odd": ODD}, "teacher_weight": 0.5,
}  # fmt: skip
TAUGHT = {
    "teacher_weight": 1.0, "beta": 0.0, "temperature": 1.0, "answers": None,
    "on_policy": {"share": 0.5, "temperature": 1.0, "max_new_tokens": 8},
}  # fmt: skip
STAGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sft": ("sft", {"assistant_only_loss": True}, {"peft": None}),
    "dpo": ("preferences", {"beta": 0.1}, {"peft": None}),
    "kto": ("feedback", {"beta": 0.1}, {"peft": None}),
    "grpo": (
        "prompts",
        SAMPLING,
        {"peft": None, "graders": {"odd": ODD}, "gold": "odd", "dynamic_sampling": 2, "curriculum": None},
    ),
    "prune": ("sft", {"assistant_only_loss": True}, HEALED),
    "distill": (
        "sft",
        {"assistant_only_loss": True, "packing": False},
        {"student": {"layers": [1], "largest_share": 0.9}, "methods": {"taught": TAUGHT}},
    ),
}
"""Stage to its data set, its trainer's settings and the rest of its YAML."""


@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_and_run_again_gives_the_same_weights(
    workspace: Path, chat_model: Path, sums_data: Path, stage: str
) -> None:
    dataset, extra, rest = STAGES[stage]
    trainer = {k: v for k, v in (TRAINER | STEPS | extra).items() if (stage, k) != ("grpo", "max_length")}
    params = workspace / f"{stage}.yaml"
    common = {
        "seed": 1,
        "threads": 1,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": dataset,
        "trainer": trainer,
    }
    values = common | rest
    with params.open("w") as f:
        YAML(typ="safe").dump(values, f)
    inputs = ["--model", str(chat_model), "--data", str(sums_data)]
    inputs += ["--teacher", str(chat_model)] if stage == "distill" else []
    out = Path("artifacts/models", stage)

    undisturbed = start(stage, params, inputs, workspace / "undisturbed")
    assert undisturbed.wait() == 0, undisturbed.communicate()[1]
    expected = artifact.verify(out)
    curve = artifact.read_jsonl(out / "curves.jsonl")
    for path in sorted(out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    out.rmdir()

    victim = start(stage, params, inputs, workspace / "victim")
    wait_for_step(victim, workspace / "victim", 12)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not out.exists()

    again = start(stage, params, inputs, workspace / "again")
    message = again.communicate()[1]
    assert again.returncode == 0, message
    assert "resuming from" in message
    assert artifact.read_jsonl(out / "curves.jsonl") == curve
    assert artifact.verify(out) == expected
    assert not [p for p in Path(".checkpoints").rglob("*") if p.is_file()]
