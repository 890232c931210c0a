"""`kill -9` of PPO between two minibatches of a rollout: two models, their optimizer, a KL coefficient, a buffer."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.stage import artifact
from tests.support.kill import start, wait_for_step
from tests.support.ppo import configured

pytestmark = pytest.mark.slow

TRAINER = {"max_steps": 10, "steps_per_generation": 2, "num_iterations": 2, "save_steps": 3, "learning_rate": 1e-3}
"""A rollout is 4 steps: step 6 is in the middle of the second one."""


def test_kill_9_and_run_again_gives_the_same_weights(
    workspace: Path, chat_model: Path, reward_model: Path, sums_data: Path
) -> None:
    config = configured(trainer=TRAINER, threads=1)
    values: dict[str, Any] = config.model_dump()
    values["ppo"] |= {"kl_target": 0.05, "kl_horizon": 20.0}
    params = workspace / "ppo.yaml"
    with params.open("w") as f:
        YAML(typ="safe").dump(values, f)
    inputs = ["--model", str(chat_model), "--reward", str(reward_model), "--data", str(sums_data)]
    out = Path("artifacts/models/ppo")

    undisturbed = start("ppo", params, inputs, workspace / "undisturbed")
    assert undisturbed.wait() == 0, undisturbed.communicate()[1]
    expected = artifact.verify(out)
    curve = artifact.read_jsonl(out / "curves.jsonl")
    coefficients = [row["kl_coef"] for row in curve if "kl_coef" in row]
    assert len(set(coefficients)) == len(coefficients) == 3
    shutil.rmtree(out)

    victim = start("ppo", params, inputs, workspace / "victim")
    wait_for_step(victim, workspace / "victim", 7)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not out.exists()

    again = start("ppo", params, inputs, workspace / "again")
    message = again.communicate()[1]
    assert again.returncode == 0, message
    assert "resuming from" in message
    assert artifact.read_jsonl(out / "curves.jsonl") == curve
    assert artifact.verify(out) == expected
