"""The real DAG on a recipe made small: run, run again, reproduce elsewhere, change one value, promote, corrupt.

The spine and one method of each other kind, to keep it short: every stage has tests of its own, and `polm run` runs
them all. The models learn nothing in a few steps; that they help is measured by `polm run` and `bench/seeds.py`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import REPO

pytestmark = pytest.mark.slow

SMALL: dict[str, dict[str, Any]] = {
    "base": {
        "source.scratch.steps": 12,
        "source.scratch.model.hidden_size": 64,
        "source.scratch.model.intermediate_size": 128,
        "source.scratch.model.num_hidden_layers": 2,
        "source.scratch.model.num_attention_heads": 2,
        "source.scratch.model.num_key_value_heads": 2,
    },
    "sft": {"trainer.max_steps": 4},
    "reward": {"trainer.max_steps": 3},
    "dpo": {"trainer.max_steps": 3},
    "cot": {"trainer.max_steps": 3},
    "adapt": {"trainer.max_steps": 3},
    "grpo": {"trainer.max_steps": 2, "trainer.per_device_train_batch_size": 16, "trainer.max_completion_length": 12},
    "export_onnx": {
        "parity.prompts": 4,
        "parity.max_new_tokens": 8,
        "speed.new_tokens": 8,
        "speed.repeats": 1,
        "forms.int4.thresholds.kl_per_token": 5.0,
        "forms.int4.thresholds.argmax_agreement": 0.0,
    },
    "data": {
        "sources.direct.options.count": 3000,
        "sources.worked.options.count": 500,
        "sources.conversations.options.count": 500,
        "sources.preferences.options.count": 700,
        "sources.questions.options.count": 300,
        "sources.sums.options.count": 600,
        "sources.long_sums.options.count": 600,
        "sources.long_questions.options.count": 300,
        "sources.rationales.options.count": 300,
        "sources.feedback.options.count": 300,
        "sources.judgements.options.count": 300,
        "sources.instructions.options.count": 300,
        "sources.instructions_test.options.count": 600,
    },
}
KEPT = {
    "data", "base", "sft", "reward", "dpo", "adapt", "cot", "grpo",
    "evaluate", "export_onnx", "evaluate_onnx", "report",
}  # fmt: skip
"""Stages that stay in the DAG."""
yaml = YAML()


def change(path: Path, key: str, value: Any) -> None:
    """Set a dotted key of a YAML file; it must exist."""
    document = yaml.load(path)
    *parents, last = key.split(".")
    section = document
    for name in parents:
        section = section[name]
    assert last in section, f"{path}: no key {key}"
    section[last] = value
    yaml.dump(document, path)


def command(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a working copy, with its own code and nothing of the outer environment's servers."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "POLM_", "DVC_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder / ".polm/dvc"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def polm(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return command(folder, sys.executable, "-c", "from flows.cli import main; main()", *words)


def locked(folder: Path) -> dict[str, list[Any]]:
    """Outputs' hashes of every stage in `dvc.lock`."""
    stages = YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]
    return {name: [(out["path"], out["md5"]) for out in stage["outs"]] for name, stage in stages.items()}


def states(folder: Path) -> dict[str, str]:
    """How each stage ended in the newest run."""
    newest = max((folder / ".polm/logs").glob("*/summary.json"), key=lambda p: p.stat().st_mtime_ns)
    return {name: row["state"] for name, row in json.loads(newest.read_text()).items()}


def shorten(folder: Path) -> None:
    """Take the other methods out of the DAG, and their claims out of the report."""
    dag = yaml.load(folder / "dvc.yaml")
    stages = dag["stages"]
    for name in [n for n in stages if n not in KEPT]:
        del stages[name]
    stages["adapt"]["matrix"]["method"] = ["lora", "prefix"]
    stages["evaluate"]["matrix"]["model"] = ["base", "sft", "dpo", "lora", "prefix", "cot", "grpo"]
    stages["evaluate_onnx"]["matrix"]["form"] = ["int8"]
    report = stages["report"]
    report["cmd"] = report["cmd"].replace("--labels artifacts/labels ", "")
    report["deps"].remove("artifacts/labels")
    yaml.dump(dag, folder / "dvc.yaml")
    change(folder / "params/micro/report.yaml", "claims", {"sft": "sums.exact_match", "grpo": "long_sums.exact_match"})


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree with a recipe `micro`, committed."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (REPO / name).is_file() and not name.startswith("tests/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    shutil.copytree(folder / "params/tiny", folder / "params/micro")
    for stage, values in SMALL.items():
        for key, value in values.items():
            change(folder / f"params/micro/{stage}.yaml", key, value)
    shorten(folder)
    policy = folder / "mlflow/gates.yaml"
    policies = yaml.load(policy)
    policies["micro"] = policies["tiny"]
    yaml.dump(policies, policy)
    for words in (
        ["git", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "m"],
    ):
        subprocess.run(words, cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def finished(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone after `polm run`, and beside it an untouched one for `dvc repro`."""
    shutil.copytree(fresh, fresh.with_name(fresh.name + "-second"))
    done = polm(fresh, "run", "--recipe", "micro")
    assert done.returncode == 0, done.stdout + done.stderr
    return fresh


def test_the_whole_pipeline_runs(finished: Path) -> None:
    assert set(states(finished).values()) == {"done"}
    assert len(states(finished)) >= 11
    page = (finished / ".polm/report/index.html").read_text()
    assert "<h1" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://127.0.0.1", "")
    metrics = json.loads((finished / "artifacts/reports/metrics.json").read_text())
    assert {"base", "sft", "dpo"} <= set(metrics)


def test_running_again_starts_nothing(finished: Path) -> None:
    before = sorted((finished / ".polm/logs").iterdir())
    done = polm(finished, "run")
    assert done.returncode == 0
    assert "nothing changed" in done.stdout
    assert sorted((finished / ".polm/logs").iterdir()) == before


def test_dvc_repro_in_another_clone_gives_the_same_hashes(finished: Path) -> None:
    second = finished.with_name(finished.name + "-second")
    change(second / "params/recipe.yaml", "recipe", "micro")
    done = command(second, "dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert locked(second) == locked(finished)


def test_a_model_that_is_no_better_is_not_promoted(finished: Path) -> None:
    done = polm(finished, "promote", "dpo")
    assert done.returncode == 2
    assert "quality: required" in done.stderr
    assert "found" in done.stderr


def test_one_changed_value_runs_that_stage_and_what_follows(finished: Path) -> None:
    change(finished / "params/micro/dpo.yaml", "trainer.beta", 0.2)
    done = polm(finished, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = {name for name, state in states(finished).items() if state != "cached"}
    assert ran == {"dpo", "evaluate@dpo", "export_onnx@dpo", "evaluate_onnx@dpo-int8", "report"}


def test_a_flipped_byte_in_an_artifact_is_noticed(finished: Path) -> None:
    weights = finished / "artifacts/models/sft/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    mode = weights.stat().st_mode
    weights.unlink()
    weights.write_bytes(bytes(content))
    weights.chmod(mode)
    words = ["params/micro/evaluate.yaml", "--model", "artifacts/models/sft", "--data", "artifacts/data"]
    done = command(finished, sys.executable, "-m", "tasks.evaluate", *words, "--out", "artifacts/metrics/sft")
    assert done.returncode == 2
    assert "artifacts/models/sft/model.safetensors: corrupted" in done.stderr
    assert "polm run" in done.stderr
