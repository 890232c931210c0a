"""The worked example of CONTRIBUTING.md, as it stands there: the method runs, and its own test passes."""

import contextlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.stage import blocks, dag, recipe
from tests.conftest import REPO

METHOD, TEST = re.findall(r"```python\n(.*?)```", (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)
BLOCK, SETTINGS, GRAPH = re.findall(r"```yaml\n(.*?)```", (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)


@pytest.fixture
def lowrank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's task file, imported as `tasks.lowrank`."""
    module = load(tmp_path / "lowrank.py", METHOD, "tasks.lowrank")
    monkeypatch.setitem(sys.modules, "tasks.lowrank", module)
    monkeypatch.setattr("tasks.lowrank", module, raising=False)
    return module


def load(path: Path, code: str, name: str) -> ModuleType:
    """Import `code` as a module."""
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RANK = "config.rank * len(s)"
"""What the example's method keeps."""


@pytest.mark.parametrize("kept", [RANK, "len(s)"])
def test_the_test_of_the_example_passes_and_fails_where_the_method_is_broken(
    kept: str, make_run: Callable[[str], Any], chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert METHOD.count(RANK) == 1
    module = load(tmp_path / "lowrank.py", METHOD.replace(RANK, kept), "tasks.lowrank")
    monkeypatch.setitem(sys.modules, "tasks.lowrank", module)
    monkeypatch.setattr("tasks.lowrank", module, raising=False)
    example = load(tmp_path / "test_lowrank.py", TEST, "test_lowrank")
    (test,) = [function for name, function in vars(example).items() if name.startswith("test_")]
    with contextlib.nullcontext() if kept == RANK else pytest.raises(AssertionError):
        test(make_run, chat_model)


def test_the_settings_of_the_example_are_valid(lowrank: ModuleType) -> None:
    settings = YAML(typ="safe").load(SETTINGS)
    assert lowrank.Config(**settings).model_dump() == settings


def test_the_block_of_the_example_gives_the_flags_that_the_method_takes(lowrank: ModuleType) -> None:
    (block,) = YAML(typ="safe").load(BLOCK).values()
    inputs = {name for name, p in inspect.signature(lowrank.main).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(re.findall(r"--(\w+)", block["do"]["cmd"])) == {*inputs, "out"}


def test_the_graph_of_the_example_fits_the_block(tmp_path: Path) -> None:
    dvc = tmp_path / "dvc.yaml"
    dvc.write_text((REPO / "dvc.yaml").read_text(encoding="utf-8").replace("\nmetrics:", f"\n{BLOCK}\nmetrics:"))
    page = tmp_path / "tiny" / recipe.FILE
    page.parent.mkdir()
    shipped = (REPO / "params/tiny" / recipe.FILE).read_text(encoding="utf-8")
    page.write_text(f"{shipped}\n{GRAPH}".replace("evaluate:\n  [", "evaluate:\n  [lowrank, "), encoding="utf-8")
    graph, stages = recipe.read(page), blocks.read(dvc)
    assert dag.problems(graph, stages) == []
    assert graph.models["lowrank"].method == "lowrank"
    assert dag.files(graph, stages)["lowrank.yaml"] == "lowrank"
