"""`kill -9` in the middle of a training stage: nothing half-written, and the next run ends in the very same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import _artifact as artifact
from tests.conftest import REPO, TRAINER

STEPS = {"max_steps": 24, "save_steps": 8}
ODD = {"grader": "regex", "weight": 1.0, "options": {"pattern": "[13579]", "mode": "search"}}
SAMPLING = {"num_generations": 4, "max_completion_length": 6, "steps_per_generation": 1, "beta": 0.01}
STAGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sft": ("sft", {"assistant_only_loss": True}, {}),
    "dpo": ("preferences", {"beta": 0.1}, {}),
    "kto": ("feedback", {"beta": 0.1}, {}),
    "grpo": (
        "prompts",
        SAMPLING,
        {"graders": {"odd": ODD}, "gold": "odd", "dynamic_sampling": 2, "curriculum": None},
    ),
}
"""Stage to its data set, its trainer's settings and the rest of its YAML."""


def start(stage: str, params: Path, inputs: list[str], events: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"tasks.{stage}", str(params), *inputs, "--out", f"artifacts/models/{stage}"]
    environment = os.environ | {"PYTHONPATH": str(REPO), "POLM_EVENTS": str(events)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], events: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        lines = events.read_text().splitlines() if events.exists() else []
        if any(json.loads(line)["done"] >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.01)
    raise AssertionError(f"the stage never reached step {step}")


@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_and_run_again_gives_the_same_weights(
    workspace: Path, chat_model: Path, sums_data: Path, stage: str
) -> None:
    dataset, extra, rest = STAGES[stage]
    trainer = {k: v for k, v in (TRAINER | STEPS | extra).items() if (stage, k) != ("grpo", "max_length")}
    params = workspace / f"{stage}.yaml"
    common = {"seed": 1, "threads": 1, "launch": None, "dataset": dataset, "peft": None, "trainer": trainer}
    values = common | rest
    with params.open("w") as f:
        YAML(typ="safe").dump(values, f)
    inputs = ["--model", str(chat_model), "--data", str(sums_data)]
    out = Path(f"artifacts/models/{stage}")

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
