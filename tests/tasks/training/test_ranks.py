"""Two processes of a CPU against one with the same batch: the same losses, the same whole artifact, the same resume."""

import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import dpo, kto, reward, sft
from tasks.stage import artifact
from tests.conftest import TRAINER
from tests.support import online_dpo, ppo, ranked, rl, supervised
from tests.support.forking import Forking
from tests.support.judges import CONSTITUTION, serving, shorter
from tests.support.kill import wait_for_step
from tests.support.launching import Launching, ranks

pytestmark = pytest.mark.slow

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
TAUGHT = {"teacher_weight": 0.5, "beta": 0.0, "temperature": 1.0, "answers": None, "on_policy": None}
STAGES = ("sft", "reward", "dpo", "kto", "distill")
PAIRED = ("reward", "dpo", "kto")
LONG = pytest.mark.cluster
"""What `make test-cluster` runs, as it takes long for a runner."""


@pytest.fixture(scope="module")
def launching(forking: Forking, tmp_path_factory: pytest.TempPathFactory) -> Launching:
    return Launching(forking, tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
def inputs(chat_model: Path, sums_data: Path) -> dict[str, Path]:
    return {"model": chat_model, "data": sums_data}


@pytest.fixture(scope="module")
def alone(launching: Launching, inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process makes of each stage, with batches of 8 rows; of 6, and then 4, in the evaluation."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: run(launching, name, "one", inputs, folder) for name in (*STAGES, "lora")}


def settings(name: str, processes: int) -> dict[str, Any]:
    """Settings of a stage, by what all processes have at once; `lora` is sft with an adapter."""
    trainer: dict[str, Any] = {
        "per_device_train_batch_size": 8 // processes,
        "per_device_eval_batch_size": 6 // processes,
        "max_steps": 3,
        "save_steps": 3,
    }
    if name == "distill":
        student = {"layers": [1], "largest_share": 0.9}
        trainer |= {"assistant_only_loss": True, "packing": False}
        common = {"seed": 1, "launch": None, "max_left_out": 0.0, "max_cut": 0.0, "dataset": "sft"}
        values = common | {"student": student, "methods": {"taught": TAUGHT}, "trainer": TRAINER | trainer}
    elif name == "kto":
        values = rl.configured(kto, "feedback", trainer).model_dump()
    else:
        module = {"sft": sft, "lora": sft, "reward": reward, "dpo": dpo}[name]
        extra = {"assistant_only_loss": True} if module is sft else {}
        values = supervised.configured(module, LORA if name == "lora" else None, **trainer, **extra).model_dump()
    return values | {"threads": 1}


def run(launching: Launching, name: str, launcher: str, inputs: dict[str, Path], folder: Path) -> Path:
    values = settings(name, 1 if launcher == "one" else 2) | {"launch": launching.launchers[launcher]}
    teacher = {"teacher": inputs["model"]} if name == "distill" else {}
    stage = "sft" if name == "lora" else name
    return launching.run(stage, values, inputs | teacher, folder, name)


def losses(folder: Path) -> dict[str, list[float]]:
    curve = artifact.read_jsonl(folder / "curves.jsonl")
    return {key: [row[key] for row in curve if key in row] for key in ("loss", "eval_loss")}


def assert_same_artifact(made: Path, expected: Path) -> None:
    """The same files, keys, shapes and types, and weights that differ by rounding."""
    files = artifact.verify(made).files
    assert files.keys() == artifact.verify(expected).files.keys()
    for file in (file for file in files if file.endswith(".json") and "config" in file):
        assert (made / file).read_bytes() == (expected / file).read_bytes(), file
    for file in (file for file in files if file.endswith(".safetensors")):
        a, b = load_file(made / file), load_file(expected / file)
        assert {k: (v.shape, v.dtype) for k, v in a.items()} == {k: (v.shape, v.dtype) for k, v in b.items()}
        for key, value in a.items():
            torch.testing.assert_close(value, b[key], atol=1e-4, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("stage", STAGES)
def test_data_parallel_processes_learn_and_log_what_one_does(
    stage: str, launching: Launching, inputs: dict[str, Path], alone: dict[str, Path], tmp_path: Path
) -> None:
    made = run(launching, stage, "ddp", inputs, tmp_path)
    for key, values in losses(alone[stage]).items():
        assert losses(made)[key] == pytest.approx(values, abs=1e-3), key
    assert len(losses(made)["loss"]) == 3
    assert len(losses(made)["eval_loss"]) == 1
    assert_same_artifact(made, alone[stage])


@pytest.mark.parametrize("stage", ("sft", "distill", "lora", *(pytest.param(name, marks=LONG) for name in PAIRED)))
def test_sharded_processes_leave_the_whole_model_of_one(
    stage: str, launching: Launching, inputs: dict[str, Path], alone: dict[str, Path], tmp_path: Path
) -> None:
    made = run(launching, stage, "fsdp2", inputs, tmp_path)
    for key, values in losses(alone[stage]).items():
        assert losses(made)[key] == pytest.approx(values, abs=5e-3), key
    assert_same_artifact(made, alone[stage])
    sizes = ("parameters", "trainable_parameters", "steps")
    figures, expected = (artifact.read_json(folder / "metrics.json") for folder in (made, alone[stage]))
    assert [figures[key] for key in sizes] == [expected[key] for key in sizes]


@pytest.fixture(scope="module")
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> Any:
    """Artifacts by the names of their fixtures, and labels that need no judge."""
    names = ("chat_model", "sums_data", "seeing_model", "pictures_data", "hearing_model", "spoken_data")
    found = {name: request.getfixturevalue(name) for name in names}
    labels = tmp_path_factory.mktemp("labels") / "labels"
    shutil.copytree(found["sums_data"] / "preferences", labels / "preferences")
    artifact.write_json(labels / "judge.json", {"labelled": 1.0})
    make_artifact(labels, stage="label")
    return found | {"labels": labels}


@LONG
@pytest.mark.parametrize("case", ranked.CASES)
def test_every_other_stage_learns_in_two_processes_what_it_does_in_one(
    case: str, launching: Launching, given: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "params").mkdir()
    artifact.write_json(tmp_path / "params/constitution.yaml", CONSTITUTION.model_dump(mode="json"))
    stage, entry = ranked.stage_of(case)
    made = {}
    for launcher in ("one", "ddp", *(["fsdp2"] if case in ranked.SHARDED else [])):
        values = ranked.settings(case, 1 if launcher == "one" else 2) | {"launch": launching.launchers[launcher]}
        made[launcher] = launching.run(stage, values, ranked.inputs(case, given), tmp_path, launcher, entry)
    expected = losses(made.pop("one"))
    for folder in made.values():
        found = losses(folder)
        assert {key: len(values) for key, values in found.items()} == {k: len(v) for k, v in expected.items()}
        apart = max(abs(a - b) for key in found for a, b in zip(found[key], expected[key], strict=True))
        assert apart < 1e-5
        assert_same_artifact(folder, tmp_path / "artifacts/one")


@LONG
@pytest.mark.parametrize("launcher", ("ddp", "fsdp2"))
def test_kill_9_of_a_rank_is_named_and_the_next_run_ends_as_if_undisturbed(
    launcher: str, launching: Launching, inputs: dict[str, Path], tmp_path: Path
) -> None:
    values = settings("sft", 2) | {"launch": launching.launchers[launcher]}
    values["trainer"] |= {"max_steps": 9, "save_steps": 3}
    expected = launching.run("sft", values, inputs, tmp_path, "sft")
    files, curve = artifact.verify(expected), artifact.read_jsonl(expected / "curves.jsonl")
    shutil.rmtree(expected)
    (tmp_path / "sft.events").unlink()

    victim = launching.start("sft", values, inputs, tmp_path, "sft")
    wait_for_step(victim, tmp_path / "sft.events", 4)
    processes = ranks(tmp_path / "sft.events")
    assert processes.keys() == {0, 1}
    processes[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    assert victim.wait() == 128 + signal.SIGKILL
    assert time.monotonic() - start < 15
    log = (tmp_path / "sft.log").read_text()
    assert log.splitlines()[-1] == "error: rank 1 was killed by signal 9, SIGKILL (out of memory?)"
    assert not ranks(tmp_path / "sft.events"), "none is left"
    assert not expected.exists()

    launching.run("sft", values, inputs, tmp_path, "sft")
    assert "resuming from" in (tmp_path / "sft.log").read_text()
    assert artifact.read_jsonl(expected / "curves.jsonl") == curve
    assert artifact.verify(expected) == files


def test_two_launchers_that_share_a_model_between_machines(
    launching: Launching, inputs: dict[str, Path], alone: dict[str, Path], tmp_path: Path
) -> None:
    """Both on this machine; they find each other by the address, and share out the ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = []
    for rank in (0, 1):
        command = f"{launching.two_machines} --main_process_port {port} --machine_rank {rank} -m"
        values = settings("sft", 2) | {"launch": command}
        machines.append(launching.start("sft", values, inputs, tmp_path, f"sft{rank}"))
    assert [machine.wait() for machine in machines] == [0, 0], (tmp_path / "sft0.log").read_text()
    [made] = (tmp_path / "artifacts").iterdir()
    assert losses(made)["loss"] == pytest.approx(losses(alone["sft"])["loss"], abs=5e-3)
    assert_same_artifact(made, alone["sft"])


GRADER = """
import json, os

def odd(response, row):
    reward = sum(map(ord, response)) % 7 / 7
    with open(os.environ["POLM_EVENTS"] + ".said-" + os.environ.get("RANK", "0"), "a") as f:
        said = {"prompt": row["prompt"][-1]["content"], "answer": response, "reward": reward}
        f.write(json.dumps(said) + "\\n")
    return reward
"""
WATCHED = {"grader": "graders.odd", "weight": 0.0, "options": {}}


def said_in(folder: Path, name: str, processes: int) -> list[dict[str, Any]]:
    """What the grader was asked by all processes of a run."""
    files = sorted(folder.glob(f"{name}.events.said-*"))
    assert len(files) == processes
    return [row for file in files for row in artifact.read_jsonl(file)]


def logged(folder: Path, key: str) -> list[float]:
    return [row[key] for row in artifact.read_jsonl(folder / "curves.jsonl") if key in row]


def asked(answers: list[dict[str, Any]]) -> Counter[str]:
    return Counter(row["prompt"] for row in answers)


def mean(values: Iterable[float]) -> Any:
    listed = list(values)
    return pytest.approx(sum(listed) / len(listed), abs=1e-6)


def test_grpo_asks_the_same_prompts_as_often_and_learns_from_all_rewards(
    launching: Launching, inputs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "params").mkdir()
    (tmp_path / "params/graders.py").write_text(GRADER)
    said = {}
    for launcher, processes in (("one", 1), ("ddp", 2)):
        trainer = {"max_steps": 3, "save_steps": 3, "per_device_train_batch_size": 8 // processes}
        values = rl.grpo_config(trainer=trainer).model_dump()
        values |= {"threads": 1, "graders": {"odd": WATCHED | {"weight": 1.0}}, "gold": "odd"}
        made = launching.run("grpo", values | {"launch": launching.launchers[launcher]}, inputs, tmp_path, launcher)
        answers = said_in(tmp_path, launcher, processes)
        assert sum(logged(made, "reward")) / 3 == mean(row["reward"] for row in answers)
        said[launcher] = asked(answers)
    assert said["one"] == said["ddp"]
    assert sum(said["one"].values()) == 24


def test_a_sharded_policy_answers_though_a_process_ends_before_the_other(
    launching: Launching, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Each has one answer, which ends at any of 200 tokens."""
    trainer = {"per_device_train_batch_size": 1, "num_generations": 2, "max_completion_length": 200}
    values = rl.grpo_config(trainer=trainer | {"max_steps": 2, "save_steps": 2}).model_dump()
    (tmp_path / "params").mkdir()
    (tmp_path / "params/graders.py").write_text(GRADER)
    values |= {"threads": 1, "graders": {"odd": WATCHED | {"weight": 1.0}}, "gold": "odd"}
    made = launching.run("grpo", values | {"launch": launching.launchers["fsdp2"]}, inputs, tmp_path, "grpo")
    answers = said_in(tmp_path, "grpo", 2)
    assert sum(logged(made, "reward")) / 2 == mean(row["reward"] for row in answers)
    assert len(answers) == 4


@pytest.mark.parametrize("launcher", ("ddp", pytest.param("fsdp2", marks=LONG)))
def test_online_dpo_asks_and_judges_in_two_processes_as_in_one(
    launcher: str, launching: Launching, inputs: dict[str, Path], judge: Path, tmp_path: Path
) -> None:
    (tmp_path / "params").mkdir()
    (tmp_path / "params/graders.py").write_text(GRADER)
    said = {}
    with serving(shorter) as server:
        for name, processes in (("one", 1), (launcher, 2)):
            trainer = {"max_steps": 3, "save_steps": 3, "per_device_train_batch_size": 8 // processes}
            config = online_dpo.configured(trainer=trainer, endpoint={"base_url": server.url})
            values = config.model_dump() | {"graders": {"odd": WATCHED}, "gold": "odd"}
            values |= {"launch": launching.launchers[name]}
            made = launching.run("online_dpo", values, inputs | {"judge": judge}, tmp_path, name)
            answers = said_in(tmp_path, name, processes)
            pairs = list(zip(answers[::2], answers[1::2], strict=True))
            assert all(a["prompt"] == b["prompt"] for a, b in pairs), "no pair is shared out"
            assert sum(logged(made, "rewards/odd/mean")) / 3 == mean(row["reward"] for row in answers)
            undecided = [a["answer"].strip() == b["answer"].strip() for a, b in pairs]
            assert sum(logged(made, "judge/ties")) / 3 >= sum(undecided) / len(undecided) - 1e-6
            assert logged(made, "kl")[0] == pytest.approx(0, abs=1e-5), "it begins as its own reference"
            assert "model.safetensors" in artifact.verify(made).files
            said[name] = asked(answers)
    assert said["one"] == said[launcher]
    assert sum(said["one"].values()) == 24


def test_ppo_without_chance_learns_in_two_processes_as_in_one(
    launching: Launching, inputs: dict[str, Path], reward_model: Path, tmp_path: Path
) -> None:
    """The likeliest answers are the same whoever draws them, so all figures and weights have to be."""
    made = {}
    for launcher, processes in (("one", 1), ("ddp", 2)):
        trainer = {"max_steps": 6, "save_steps": 6, "top_k": 1, "learning_rate": 1e-3}
        trainer |= {"per_device_train_batch_size": 8 // processes}
        values = ppo.configured(trainer=trainer, threads=1).model_dump()
        values |= {"launch": launching.launchers[launcher]}
        made[launcher] = launching.run("ppo", values, inputs | {"reward": reward_model}, tmp_path, launcher)
    one, two = (artifact.read_jsonl(made[launcher] / "curves.jsonl") for launcher in ("one", "ddp"))
    for key in ("loss", "reward", "kl", "value_loss", "explained_variance"):
        assert [row[key] for row in two if key in row] == pytest.approx([r[key] for r in one if key in r], abs=1e-4), (
            key
        )
    assert len({row["reward"] for row in one if "reward" in row}) > 1
    assert_same_artifact(made["ddp"], made["one"])
