"""A project whose recipe states no claim, report or gates: `sft` and `dpo`, evaluated, exported, reported, committed.

Its `dvc.yaml` is the product's; code and settings of the stages are stand-ins, as no stage but the report runs.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.export import parity
from tasks.stage import artifact, blocks
from tasks.stage.config import read_yaml
from tests.conftest import REPO
from tests.support import report_tree
from tests.support.promotable import SERVED

RECIPE = "mine"
PARAMS = Path("params", RECIPE)
GRAPH: Mapping[str, Any] = {
    "recipe": RECIPE,
    "sft": {"sft": {"from": "base"}},
    "dpo": {"dpo": {"from": "sft"}},
    "reward": {"reward": {"from": "sft"}},
    "evaluate": ["base", "sft", "dpo"],
    "export": ["dpo", "sft"],
    "forms": ["int8"],
}
ROWS = 200
"""Questions of each evaluation."""


def settings() -> None:
    """Write the recipe and the files that hold for every recipe into the working directory."""
    PARAMS.mkdir(parents=True)
    (PARAMS / "recipe.yaml").write_text(json.dumps(GRAPH))
    Path("params/recipe.yaml").symlink_to(f"{RECIPE}/recipe.yaml")
    (PARAMS / "evaluate.yaml").write_text(json.dumps({"tasks": [{"file": "eval/sums.yaml"}]}))
    (PARAMS / "eval").mkdir()
    (PARAMS / "eval/sums.yaml").write_text("task: sums\n")
    shutil.copy(REPO / "params/report.yaml", "params")
    Path("mlflow").mkdir()
    shutil.copy(REPO / "mlflow/gates.yaml", "mlflow")
    Path("mlflow/chat_model.py").write_text(SERVED)
    Path(".gitignore").write_text("/artifacts/\n/.polm/\n")
    for name in ("data", "base", "sft", "dpo", "reward", "export_onnx"):
        (PARAMS / f"{name}.yaml").write_text("seed: 0\n")
    shutil.copy(REPO / "dvc.yaml", ".")


def build(make: report_tree.Make) -> None:
    """Write settings, artifacts and `dvc.yaml` into the working directory, and commit them."""
    settings()
    root = report_tree.build(Path(), make, rows=ROWS)
    for stray in ("metrics/dpo_int4", "labels"):
        shutil.rmtree(root / stray)
    _questions(root, make)
    for model in ("dpo", "sft"):
        _export(root, model, make)
    Path("tasks").mkdir()
    Path("tasks/code.txt").write_text("x")
    for block in blocks.read().values():
        (root / "code").mkdir(exist_ok=True)
        artifact.write_json(root / "code" / f"{block.module}.json", {})
    make(root / "code", stage="fingerprint")
    report()
    commit()


def report() -> None:
    """Run the stage `report` as `dvc.yaml` says."""
    words = read_yaml(blocks.DVC)["stages"]["report"]["cmd"].replace("${recipe}", RECIPE).split()
    assert words[0] == "python"
    path = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, *words[1:]], check=True, env={**os.environ, "PYTHONPATH": path})


def commit() -> None:
    """Commit everything, to DVC and to git."""
    from dvc.repo import Repo

    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(Path(".polm/dvc").absolute()))
        Repo.init().close()
        Repo().commit(force=True)
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "x"], check=True)


def _questions(root: Path, make: report_tree.Make) -> None:
    """Give the data its rows, of which the contamination gate wants some, and all that was made from it its digest."""
    artifact.write_jsonl(root / "data/eval/sums.jsonl", [{"id": "q", "question": "What is 1 + 1?", "answer": "2"}])
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    artifact.write_jsonl(root / "data/sft/train.jsonl", [{"id": "t", "messages": said}])
    old = artifact.read_manifest(root / "data").digest
    digests = {old: make(root / "data", stage="data").digest}
    for name in ("models/base", "models/sft", "models/dpo", "models/reward", "metrics/base",
                 "metrics/sft", "metrics/dpo", "onnx/dpo"):  # fmt: skip
        manifest = artifact.read_manifest(root / name)
        inputs = {key: digests.get(digest, digest) for key, digest in manifest.inputs.items()}
        digests[manifest.digest] = make(root / name, stage=manifest.stage, **inputs).digest


def _export(root: Path, model: str, make: report_tree.Make) -> None:
    """Export a model to int8, which answers as the model does."""
    folder = root / "onnx" / model
    if not folder.exists():
        shutil.copytree(root / "onnx/dpo", folder)
    report = artifact.read_json(root / "onnx/dpo/parity.json")
    form = report["forms"]["int8"] | dict.fromkeys(parity.IDENTICAL, True)
    artifact.write_json(
        folder / "parity.json",
        report | {"forms": {"int8": form}, "thresholds": {"int8": report["thresholds"]["int8"]}},
    )
    (folder / "int8").mkdir(exist_ok=True)
    (folder / "int8/model.onnx").write_text(f"{model} in int8")
    data = artifact.read_manifest(root / "data").digest
    digest = artifact.read_manifest(root / "models" / model).digest
    exported = make(folder, stage="export_onnx", model=digest, data=data)
    asked = root / "metrics" / f"{model}_int8"
    shutil.copytree(root / "metrics" / model, asked)
    results = artifact.read_json(asked / "results.json")
    artifact.write_json(asked / "results.json", results | {"form": "int8"})
    make(asked, stage="evaluate", model=exported.digest, data=data)
