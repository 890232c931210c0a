"""`dvc.yaml` against the code: what a stage depends on is what it declares."""

import ast
import shlex
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import REPO

PLUMBING = {f"tasks/stage/{name}.py" for name in ("artifact", "config", "errors", "launch", "progress", "lifecycle")}
"""Decide where a stage's bytes go and not which: a new error message must not retrain every model."""
DAG: dict[str, Any] = YAML(typ="safe").load((REPO / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, Any] = DAG["stages"]
MODULES = {f"tasks.{p.stem}" for p in (REPO / "tasks").glob("[a-z]*.py")}
RECIPES = sorted(p.name for p in (REPO / "params").iterdir() if p.is_dir())


def imported(path: Path) -> set[Path]:
    """Modules of `tasks` that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "tasks":
            names |= {f"tasks.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {REPO / f"{n.replace('.', '/')}.py" for n in names if n.startswith("tasks.")}


def closure(start: Path) -> set[str]:
    seen: set[Path] = set()
    queue = [start]
    while queue:
        path = queue.pop()
        if path not in seen and path.exists():
            seen.add(path)
            queue += imported(path)
    return {str(p.relative_to(REPO)) for p in seen}


def module(name: str) -> str:
    """Module that a stage runs: its own, or that of the method whose settings it varies."""
    return shlex.split(STAGES[name]["cmd"])[2]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_code_that_decides_its_result(name: str) -> None:
    declared = {d for d in STAGES[name]["deps"] if d.startswith("tasks/")}
    assert closure(REPO / f"{module(name).replace('.', '/')}.py") - PLUMBING <= declared
    assert all((REPO / d).exists() for d in declared)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_artifacts_its_command_names(name: str) -> None:
    words = shlex.split(STAGES[name]["cmd"])
    flags = dict(zip(words[4::2], words[5::2], strict=True))
    assert words[:2] == ["python", "-m"]
    assert module(name) in MODULES
    assert words[3] == "params/${recipe}/" + f"{settings(name)}.yaml"
    assert [flags.pop("--out")] == STAGES[name]["outs"]
    assert {flag.removesuffix("/${item.form}") for flag in flags.values()} == {
        d for d in STAGES[name]["deps"] if d.startswith("artifacts/")
    }
    assert STAGES[name]["params"] == [{words[3]: None}]


def settings(name: str) -> str:
    """The recipe file of a stage: its own, but that forms of an export are asked what models are asked."""
    return "evaluate" if name == "evaluate_onnx" else name


def test_every_stage_file_is_in_the_dag() -> None:
    assert {module(name) for name in STAGES} == MODULES


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_every_stage(recipe: str) -> None:
    assert {f"{settings(name)}.yaml" for name in STAGES} == {p.name for p in (REPO / "params" / recipe).glob("*.yaml")}


def test_arrows_run_one_way() -> None:
    stages = {module(name) for name in STAGES}
    for path in (REPO / "flows").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not modules & stages, f"{path} imports a stage"
    for path in (REPO / "tasks").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not any(f"import {m}" in text or f"from {m}" in text for m in ("prefect", "mlflow", "flows")), path


def test_the_library_mlflow_is_not_shadowed() -> None:
    assert not (REPO / "mlflow/__init__.py").exists()
    assert not (REPO / "flows/mlflow.py").exists()
    assert not (REPO / "flows/tasks.py").exists()
