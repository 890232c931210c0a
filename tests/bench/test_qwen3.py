"""Every stage of text of the recipe `qwen3` runs on a CPU, with stand-ins for the hub; what a GPU runs is the same."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import qwen3, stand_ins
from tasks import base, data, dpo, evaluate, export_onnx, grpo, sft
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.config import load, read_yaml
from tests.conftest import REPO

MakeRun = Callable[..., Any]
Make = Callable[..., artifact.Manifest]
STEPS = 2
QUESTIONS = 8
PARENTS = {"sft": "base", "cot": "sft", "dpo": "sft", "grpo": "cot"}
"""Model to the one that it starts from, in the order of the graph."""
METHODS = {"sft": sft, "cot": sft, "dpo": dpo, "grpo": grpo}


@pytest.fixture
def params(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe in a scratch folder, shortened for a CPU, with its stand-ins beside it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workspace / "cache")
    folder = workspace / "params/qwen3"
    shutil.copytree(REPO / "params/qwen3", folder)
    texts = stand_ins.data_sets(workspace, rows=400, tested=QUESTIONS)
    stand_ins.base_model(workspace, "small", texts)
    qwen3.shorten(folder, STEPS, cpu=True, vllm=False, tested=QUESTIONS)
    return folder


def test_the_graph_is_the_one_that_is_run() -> None:
    graph = read_yaml(REPO / "params/qwen3/recipe.yaml")
    text = {model: values["from"] for method in ("sft", "dpo", "grpo") for model, values in graph[method].items()}
    assert text == PARENTS
    assert set(qwen3.TRAININGS) == set(PARENTS)


def test_on_a_gpu_only_the_steps_and_the_bounds_of_random_weights_change(tmp_path: Path) -> None:
    shutil.copytree(REPO / "params/qwen3", tmp_path / "qwen3")
    qwen3.shorten(tmp_path / "qwen3", 20, cpu=False, vllm=True, tested=64)
    for name in qwen3.TRAININGS:
        before, after = (read_yaml(folder / f"{name}.yaml") for folder in (REPO / "params/qwen3", tmp_path / "qwen3"))
        assert after["trainer"].pop("max_steps") == 20
        for changed in ("max_steps", "save_steps", "use_vllm", "mask_truncated_completions"):
            before["trainer"].pop(changed, None)
            after["trainer"].pop(changed, None)
        for values in (before, after):
            values.get("graders", {"brief": {}})["brief"].pop("options", None)
        assert before == after
    assert read_yaml(tmp_path / "qwen3/grpo.yaml")["trainer"]["use_vllm"] is True
    assert read_yaml(tmp_path / "qwen3/evaluate.yaml")["device"] == "cuda"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_from_its_data_to_its_exports(params: Path, make_run: MakeRun, make_artifact: Make) -> None:
    def run(module: Any, name: str, file: str, **inputs: Path) -> Path:
        made = make_run(name)
        made.params_file = params / f"{file}.yaml"
        module.main(load(made.params_file, module.Config), made, **inputs)
        make_artifact(made.out, stage=module.__name__.rpartition(".")[2])
        return Path(made.out)

    rows = run(data, "data", "data")
    counted = {name: len(artifact.read_jsonl(rows / f"{name}/train.jsonl")) for name in ("sft", "preferences")}
    assert min(counted.values()) > 250, counted
    assert len(artifact.read_jsonl(rows / "eval/gsm8k.jsonl")) == QUESTIONS

    models = {"base": run(base, "base", "base", data=rows)}
    for name, parent in PARENTS.items():
        models[name] = run(METHODS[name], name, name, model=models[parent], data=rows)
        assert artifact.read_json(models[name] / "metrics.json")["steps"] == STEPS
        losses = [row["loss"] for row in artifact.read_jsonl(models[name] / "curves.jsonl") if "loss" in row]
        assert losses and all(loss == loss for loss in losses), f"{name}: a loss is no number"
        dtype = str(load_causal_lm(models[name], dtype="auto").dtype)
        assert dtype == "torch.float32", f"{name}: a step of this learning rate is lost in {dtype}"
        assert load_tokenizer(models[name]).eos_token == "<|im_end|>"

    results = artifact.read_json(run(evaluate, "asked", "evaluate", model=models["grpo"], data=rows) / "results.json")
    assert {name: task["samples"] for name, task in results["tasks"].items()} == {
        "gsm8k": QUESTIONS,
        "instructions": QUESTIONS,
    }
    exported = run(export_onnx, "exported", "export_onnx", model=models["dpo"], data=rows)
    assert {path.parent.name for path in exported.glob("*/genai_config.json")} == {"fp32", "int8", "int4"}
