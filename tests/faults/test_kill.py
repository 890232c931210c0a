"""`kill -9` in the middle of a training stage: nothing half-written, and the next run ends in the very same weights.

`sft` runs as its command does, and so shows that this is true of fresh processes. The other stages run in forks of two
processes that have imported the libraries: what was not disturbed in one of the first, what is killed and run again in
forks of the second, whose hashes of strings are others.
"""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.stage import artifact
from tests.conftest import TRAINER
from tests.support import online_dpo, ppo, refine
from tests.support.forking import Forking
from tests.support.judges import ENDPOINT, serving, shorter
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


PPO = {"max_steps": 10, "steps_per_generation": 2, "num_iterations": 2, "save_steps": 3, "learning_rate": 1e-3}
"""A rollout is 4 steps: step 6 is in the middle of the second one."""
ONLINE = {"max_steps": 10, "save_steps": 4, "gradient_accumulation_steps": 2}


def written(path: Path, values: dict[str, Any]) -> Path:
    with path.open("w") as f:
        YAML(typ="safe").dump(values, f)
    return path


@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_and_run_again_gives_the_same_weights(
    workspace: Path, chat_model: Path, sums_data: Path, stage: str, request: pytest.FixtureRequest
) -> None:
    first, second = (None, None) if stage == "sft" else map(request.getfixturevalue, ("forking", "other_forking"))
    dataset, extra, rest = STAGES[stage]
    trainer = {k: v for k, v in (TRAINER | STEPS | extra).items() if (stage, k) != ("grpo", "max_length")}
    common = {
        "seed": 1,
        "threads": 1,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": dataset,
        "trainer": trainer,
    }
    params = written(workspace / f"{stage}.yaml", common | rest)
    inputs = ["--model", str(chat_model), "--data", str(sums_data)]
    inputs += ["--teacher", str(chat_model)] if stage == "distill" else []
    out = Path("artifacts/models", stage)

    undisturbed = start(stage, params, inputs, workspace / "undisturbed", first)
    assert undisturbed.wait() == 0, undisturbed.communicate()[1]
    expected = artifact.verify(out)
    curve = artifact.read_jsonl(out / "curves.jsonl")
    shutil.rmtree(out)

    victim = start(stage, params, inputs, workspace / "victim", second)
    wait_for_step(victim, workspace / "victim", 12)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not out.exists()

    again = start(stage, params, inputs, workspace / "again", second)
    message = again.communicate()[1]
    assert again.returncode == 0, message
    assert "resuming from" in message
    assert artifact.read_jsonl(out / "curves.jsonl") == curve
    assert artifact.verify(out) == expected
    assert not [p for p in Path(".checkpoints").rglob("*") if p.is_file()]


def test_ppo_killed_between_two_minibatches_of_a_rollout(
    workspace: Path, chat_model: Path, reward_model: Path, sums_data: Path, forking: Forking, other_forking: Forking
) -> None:
    """Two models, their optimizer, a KL coefficient and a buffer come back."""
    values: dict[str, Any] = ppo.configured(trainer=PPO, threads=1).model_dump()
    values["ppo"] |= {"kl_target": 0.05, "kl_horizon": 20.0}
    params = written(workspace / "ppo.yaml", values)
    inputs = ["--model", str(chat_model), "--reward", str(reward_model), "--data", str(sums_data)]
    out = Path("artifacts/models/ppo")
    first, second = forking, other_forking

    undisturbed = start("ppo", params, inputs, workspace / "undisturbed", first)
    assert undisturbed.wait() == 0, undisturbed.communicate()[1]
    expected = artifact.verify(out)
    curve = artifact.read_jsonl(out / "curves.jsonl")
    coefficients = [row["kl_coef"] for row in curve if "kl_coef" in row]
    assert len(set(coefficients)) == len(coefficients) == 3
    shutil.rmtree(out)

    victim = start("ppo", params, inputs, workspace / "victim", second)
    wait_for_step(victim, workspace / "victim", 7)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not out.exists()

    again = start("ppo", params, inputs, workspace / "again", second)
    message = again.communicate()[1]
    assert again.returncode == 0, message
    assert "resuming from" in message
    assert artifact.read_jsonl(out / "curves.jsonl") == curve
    assert artifact.verify(out) == expected


def test_online_dpo_draws_and_judges_the_same_answers_again(
    workspace: Path,
    no_proxy: None,
    chat_model: Path,
    judge: Path,
    sums_data: Path,
    forking: Forking,
    other_forking: Forking,
) -> None:
    """The stage learns from the policy's own answers, which a resumed run draws again."""
    inputs = ["--model", str(chat_model), "--judge", str(judge), "--data", str(sums_data)]
    out = Path("artifacts/models/online_dpo")
    first, second = forking, other_forking
    with serving(shorter) as server:
        config = online_dpo.configured(trainer=ONLINE, endpoint={"base_url": server.url})
        params = written(workspace / "online_dpo.yaml", config.model_dump())

        undisturbed = start("online_dpo", params, inputs, workspace / "undisturbed", first)
        assert undisturbed.wait() == 0, undisturbed.communicate()[1]
        expected = artifact.verify(out)
        assert set(expected.inputs) == {"model", "judge", "data"}
        curve = artifact.read_jsonl(out / "curves.jsonl")
        sent = len(server.bodies)
        shutil.rmtree(out)
        shutil.rmtree(".polm/judge")

        victim = start("online_dpo", params, inputs, workspace / "victim", second)
        wait_for_step(victim, workspace / "victim", 6)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert not out.exists()
        assert len(server.bodies) > sent

        again = start("online_dpo", params, inputs, workspace / "again", second)
        message = again.communicate()[1]
    assert again.returncode == 0, message
    assert "resuming from" in message
    assert artifact.read_jsonl(out / "curves.jsonl") == curve
    assert artifact.verify(out) == expected
    assert len(server.bodies) <= 2 * sent + ENDPOINT["concurrency"], "what was asked is asked again only if under way"


def test_refine_killed_behind_its_first_round_goes_on_there(
    workspace: Path, chat_model: Path, sums_data: Path, forking: Forking, other_forking: Forking
) -> None:
    params = written(workspace / "refine.yaml", refine.configured(threads=1).model_dump())
    inputs = ["--model", str(chat_model), "--data", str(sums_data)]
    out = Path("artifacts/models/refine")
    first, second = forking, other_forking

    undisturbed = start("refine", params, inputs, workspace / "undisturbed", first)
    message = undisturbed.communicate()[1]
    assert undisturbed.returncode == 0, message
    expected = artifact.verify(out)
    shutil.rmtree(out)

    victim = start("refine", params, inputs, workspace / "victim", second)
    deadline = time.monotonic() + 240
    while not list(Path(".checkpoints").rglob("round-0/trained.json")):
        assert time.monotonic() < deadline
        assert victim.poll() is None, "the first round is not the end"
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not out.exists()

    again = start("refine", params, inputs, workspace / "again", second)
    message = again.communicate()[1]
    assert again.returncode == 0, message
    labels = {json.loads(line)["label"] for line in (workspace / "again").read_text().splitlines()}
    assert "comparing, after" in labels
    assert not labels & {"comparing, before", "round 1: drafting"}, "what was whole is not done again"
    assert artifact.verify(out) == expected
    assert not [p for p in Path(".checkpoints").rglob("*") if p.is_file()]
