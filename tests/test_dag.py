"""`dvc.yaml` against the code and the recipes: what a stage reads is what it declares, and every recipe fits it."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import fingerprint
from tasks.check import graph as graph_check
from tasks.stage import blocks, dag, recipe
from tests.conftest import REPO

DAG: dict[str, Any] = YAML(typ="safe").load((REPO / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, Any] = {name: stage.get("do", stage) for name, stage in DAG["stages"].items()}
BLOCKS = blocks.read(REPO / "dvc.yaml")
METHODS = [name for name, block in BLOCKS.items() if block.method]
RECIPES = sorted(p.parent.name for p in (REPO / "params").glob("*/recipe.yaml"))


def read(name: str, monkeypatch: pytest.MonkeyPatch) -> recipe.Graph:
    monkeypatch.chdir(REPO)
    return recipe.read(Path("params", name, recipe.FILE))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_stage_declares_the_artifacts_its_command_names(name: str) -> None:
    words = shlex.split(STAGES[name]["cmd"])
    flags = dict(zip(words[4::2], words[5::2], strict=True))
    flags.pop("--method", None)
    assert words[:2] == ["python", "-m"]
    assert [flags.pop("--out")] == STAGES[name]["outs"]
    artifacts = {d for d in STAGES[name]["deps"] if d.startswith("artifacts/") and not d.startswith("artifacts/code/")}
    beside = {"artifacts/models", "artifacts/metrics"} if name == "report" else set()
    assert {flag.removesuffix("/${item.form}") for flag in flags.values()} | beside == artifacts


@pytest.mark.parametrize("name", BLOCKS)
def test_a_stage_depends_on_its_fingerprint_and_on_no_code(name: str) -> None:
    deps = STAGES[name]["deps"]
    assert [d for d in deps if d.startswith("artifacts/code/")] == [f"artifacts/code/{BLOCKS[name].module}.json"]
    assert not [d for d in deps if d.startswith("tasks")]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_stage_hashes_the_recipe_file_it_reads(name: str) -> None:
    block = BLOCKS[name]
    if block.module in ("evaluate", "evaluate_rag"):
        assert "params/${recipe}/" + block.file in STAGES[name]["deps"]
        return
    params = STAGES[name]["params"][0]
    if block.file in dag.OPTIONAL:  # its fingerprint holds the recipe's own, if there is one
        assert list(params) == [f"params/{block.file}"] and (REPO / "params" / block.file).is_file()
        assert block.file in fingerprint.WHOLE[block.module]
        return
    assert list(params) == ["params/${recipe}/" + block.file]
    fields = set(importlib.import_module(f"tasks.{block.module}").Config.model_fields)
    if block.file == blocks.PART:
        assert set(block.params) == fields
        return
    chosen = {"methods.${item.method}"} if "methods" in fields else set()
    assert set(block.params) == ((fields - {"methods"}) | chosen if chosen else set())


def test_every_stage_file_is_in_the_dag_and_every_stage_has_a_file() -> None:
    modules = {re.findall(r"-m tasks\.(\w+)", stage["cmd"])[0] for stage in STAGES.values()}
    assert modules == {p.stem for p in (REPO / "tasks").glob("*.py")} - {"__init__"}


def test_a_method_that_a_recipe_does_not_name_makes_no_model() -> None:
    defaults = {name: value for entry in DAG["vars"] if isinstance(entry, dict) for name, value in entry.items()}
    assert defaults == {name: {} for name in [*METHODS, *recipe.MAPPINGS]}


def test_the_declaration_is_short() -> None:
    blocks = re.split(r"\n\n", (REPO / "dvc.yaml").read_text(encoding="utf-8").split("\nmetrics:")[0])
    assert len(blocks) >= len(STAGES)
    assert max(len(block.splitlines()) for block in blocks) <= 16


def test_the_recipes_are_there() -> None:
    assert {"tiny", "smollm2", "qwen3"} <= set(RECIPES)
    assert sorted(p.name for p in (REPO / "params").iterdir() if p.is_dir()) == RECIPES
    assert (REPO / "params/recipe.yaml").readlink() == Path("tiny/recipe.yaml"), "a clone starts with tiny"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_the_dag(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dag.problems(read(name, monkeypatch), BLOCKS) == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_files_its_graph_needs_and_no_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = read(name, monkeypatch)
    files = {p.name for p in (REPO / "params" / name).glob("*.yaml")} - {recipe.FILE}
    assert files == set(dag.files(graph, BLOCKS))
    assert list(graph_check.unused_methods(graph)) == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_no_path_of_our_code(name: str) -> None:
    texts = [p.read_text(encoding="utf-8") for p in (REPO / "params" / name).rglob("*.yaml")]
    assert len(texts) > 8
    assert not [text for text in texts if re.search(r"\btasks[./]\w", text)]


def test_tiny_uses_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """But shards: its index is embedded in seconds. `tests/flows/test_sharded_index.py` runs one of two shards."""
    used = {model.method for model in read("tiny", monkeypatch).models.values()}
    assert used == set(METHODS) - {recipe.EMBED, recipe.SHARDED}


def test_the_library_mlflow_is_not_shadowed() -> None:
    assert not (REPO / "mlflow/__init__.py").exists()
    assert not (REPO / "flows/mlflow.py").exists()
    assert not (REPO / "flows/tasks.py").exists()
