"""A project ready for promotion: artifacts of the product's shapes, recorded in `dvc.lock` and committed."""

import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.export import parity
from tasks.stage import artifact
from tests.conftest import REPO
from tests.support import toy

Make = Callable[..., artifact.Manifest]
HELPFUL = {"base": 0.1, "sft": 0.5, "dpo": 0.8, "worse": 0.3}
PARENTS = {"sft": "base", "dpo": "sft", "worse": "sft"}

GATES = """
tiny:
  form: int8
  served_loss: 0.02
  quality: {metric: sums.helpful, gain: 0.0}
  regression: {"*": 0.05}
  bootstrap: {resamples: 500, confidence: 0.95, seed: 0}
  allow_changed_evaluation: false
  allow_dirty: true
"""
SERVED = """
import mlflow

class Served(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.folder = context.artifacts["onnx"]

    def predict(self, context, model_input, params=None):
        with open(self.folder + "/model.onnx") as f:
            return [f.read()]

mlflow.models.set_model(Served())
"""


def stage(name: str, out: str, *deps: str) -> str:
    return f"  {name}: {{cmd: 'true', deps: [{', '.join(['code.py', *deps])}], outs: [{out}]}}\n"


def fill(root: Path, make: Make) -> None:
    """A pipeline's artifacts as they are after a run: data, base, and three models trained from each other."""
    data = root / "artifacts/data"
    ids = [f"row{i}" for i in range(200)]
    artifact.write_jsonl(data / "eval/sums.jsonl", [{"id": i, "question": f"What is {i}?", "answer": "5"} for i in ids])
    artifact.write_jsonl(data / "sft/train.jsonl", [{"id": "t", "messages": [{"role": "user", "content": "Hi"}]}])
    files = {"sft/train.jsonl": {"rows": 1}}
    report = {
        "contaminated": [],
        "sets": {"sft": {"files": files, "licences": ["CC0-1.0"], "sources": {"greetings": {"kept": 1}}}},
        "sources": {"greetings": {"kind": "file", "name": "hi.jsonl", "licence": "CC0-1.0", "sha256": "ab" * 32}},
    }
    artifact.write_json(data / "report.json", report)
    digests = {"data": make(data, stage="data").digest}
    lines = stage("data", "artifacts/data")
    order = random.Random(0).sample(range(len(ids)), len(ids))
    for model, share in HELPFUL.items():
        folder = root / "artifacts/models" / model
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(model)
        inputs = {"data": digests["data"]} | ({"model": digests[PARENTS[model]]} if model in PARENTS else {})
        digests[model] = make(folder, stage=model, **inputs).digest
        evaluation = root / "artifacts/metrics" / model
        rows = [{"id": i, "scores": {"helpful": float(order[n] < share * 200)}} for n, i in enumerate(ids)]
        artifact.write_jsonl(evaluation / "samples/sums.jsonl", rows)
        result = {"metrics": {}, "higher_is_better": {"helpful": True}}
        artifact.write_json(evaluation / "results.json", {"model": model, "tasks": {"sums": result}})
        make(evaluation, stage="evaluate", model=digests[model], data=digests["data"])
        export = root / "artifacts/onnx" / model
        (export / "int8").mkdir(parents=True)
        (export / "int8/model.onnx").write_text(f"{model} in int8")
        form = {"max_logprob_difference": 0.1, "kl_per_token": 0.01, "argmax_agreement": 0.99, "greedy_agreement": 0.9}
        form |= {"bytes": 9, **dict.fromkeys(parity.IDENTICAL, True)}
        limits = dict.fromkeys(("max_logprob_difference", "argmax_agreement", "greedy_agreement"))
        artifact.write_json(
            export / "parity.json",
            {"forms": {"int8": form}, "thresholds": {"int8": {**limits, "kl_per_token": 0.02}}, "prompts": 8},
        )
        exported = make(export, stage="export_onnx", model=digests[model], data=digests["data"])
        asked = root / "artifacts/metrics" / f"{model}_int8"
        shutil.copytree(evaluation, asked, ignore=shutil.ignore_patterns(artifact.MANIFEST))
        make(asked, stage="evaluate", model=exported.digest, data=digests["data"])
        above = ["artifacts/data", *([f"artifacts/models/{PARENTS[model]}"] if model in PARENTS else [])]
        lines += stage(model, f"artifacts/models/{model}", *above)
        lines += stage(f"evaluate-{model}", f"artifacts/metrics/{model}", f"artifacts/models/{model}", "artifacts/data")
        lines += stage(f"export-{model}", f"artifacts/onnx/{model}", f"artifacts/models/{model}", "artifacts/data")
        served = f"artifacts/metrics/{model}_int8"
        lines += stage(f"evaluate_onnx-{model}", served, f"artifacts/onnx/{model}", "artifacts/data")
    (root / "dvc.yaml").write_text(f"stages:\n{lines}")


def make_project(root: Path, make: Make) -> None:
    """Fill an empty folder with the project."""
    for name, text in {
        "code.py": "x",
        "mlflow/gates.yaml": GATES,
        "mlflow/chat_model.py": SERVED,
        "params/tiny/recipe.yaml": toy.GRAPH.format(recipe="tiny"),
        "params/tiny/sft.yaml": "seed: 0\n",
        ".gitignore": "/artifacts/\n/.polm/\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "params/recipe.yaml").symlink_to("tiny/recipe.yaml")
    fill(root, make)
    from dvc.repo import Repo

    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DVC_SITE_CACHE_DIR", str(root / ".polm/dvc"))
        Repo.init().close()
        Repo().commit(force=True)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "x"], cwd=root, check=True)


PICTURES = """
tiny/pictures:
  form: int8
  served_loss: 0.02
  quality: {metric: digits.exact_match, gain: 0.0}
  sight: {control: other, gain: 0.3}
  regression: {"*": 0.05}
  bootstrap: {resamples: 500, confidence: 0.95, seed: 0}
  allow_changed_evaluation: false
  allow_dirty: true
"""
RIGHT = {"sight": 0.1, "vlm": 0.9, "blind": 0.9}
"""Model that sees to its share of right answers; `blind` gives the same ones to any picture."""


def add_seeing(root: Path, make: Make, onnx: Path) -> None:
    """Give the project in the working directory models that see, made from its `sft`, and an export's real int8."""
    data = root / "artifacts/media/pictures"
    ids = [f"row{i}" for i in range(200)]
    asked = [{"id": i, "question": "Which digit?", "answer": "5", "images": [f"{i}.png"]} for i in ids]
    artifact.write_jsonl(data / "eval/digits.jsonl", asked)
    said = [{"role": "user", "content": "Which digit?"}, {"role": "assistant", "content": "5."}]
    artifact.write_jsonl(data / "sft/train.jsonl", [{"id": "t", "messages": said, "images": ["other.png"]}])
    (data / "media.zip").write_bytes(b"pictures")
    kept = {"files": {"sft/train.jsonl": {"rows": 1}}, "licences": ["CC-BY-4.0"], "sources": {"drawn": {"kept": 1}}}
    sources = {"drawn": {"kind": "generator", "name": "digits.questions", "licence": "CC-BY-4.0"}}
    report = {"contaminated": [], "sets": {"sft": kept}, "sources": sources, "pictures": {"files": 201}}
    artifact.write_json(data / "report.json", report)
    digests = {"data": make(data, stage="data").digest}
    lines = stage("media-pictures", "artifacts/media/pictures")
    parents = {"sight": "sft", "vlm": "sight", "blind": "sight"}
    digests["sft"] = artifact.read_manifest(root / "artifacts/models/sft").digest
    for model, share in RIGHT.items():
        folder = root / "artifacts/models" / model
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(model)
        digests[model] = make(folder, stage="vlm", model=digests[parents[model]], data=digests["data"]).digest
        lines += stage(model, f"artifacts/models/{model}", f"artifacts/models/{parents[model]}", str(data))
        difference = 0.0 if model == "blind" else share - 0.1
        found = {"value": 0.1, "difference": difference, "low": difference - 0.04, "high": difference + 0.04}
        controls = {"all": {"other": {"rows": 200, "exact_match": found}}}
        result = {"metrics": {}, "higher_is_better": {"exact_match": True}, "controls": controls}
        rows = [{"id": i, "scores": {"exact_match": float(n < share * 200)}} for n, i in enumerate(ids)]

        def evaluated(name: str, made_of: str, rows: Any = rows, result: Any = result) -> None:
            folder = root / "artifacts/metrics" / name
            artifact.write_jsonl(folder / "samples/digits.jsonl", rows)
            artifact.write_json(folder / "results.json", {"model": name, "tasks": {"digits": result}})
            make(folder, stage="evaluate", model=made_of, data=digests["data"])

        evaluated(model, digests[model])
        lines += stage(f"evaluate-{model}", f"artifacts/metrics/{model}", f"artifacts/models/{model}", str(data))
        if model == "sight":
            continue
        export = root / "artifacts/onnx" / model
        shutil.copytree(onnx / "int8", export / "int8")
        shutil.copyfile(onnx / "parity.json", export / "parity.json")
        exported = make(export, stage="export_onnx", model=digests[model], data=digests["data"])
        evaluated(f"{model}_int8", exported.digest)
        lines += stage(f"export-{model}", f"artifacts/onnx/{model}", f"artifacts/models/{model}", str(data))
        lines += stage(f"asked-{model}", f"artifacts/metrics/{model}_int8", f"artifacts/onnx/{model}", str(data))
    with (root / "dvc.yaml").open("a") as f:
        f.write(lines)
    with (root / "mlflow/gates.yaml").open("a") as f:
        f.write(PICTURES)
    shutil.copy(REPO / "mlflow/seeing_model.py", root / "mlflow")
    from dvc.repo import Repo

    Repo().commit(force=True)
