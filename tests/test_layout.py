"""The layout that `docs/architecture.md` promises: stages are files, what they share is a folder, tests mirror both."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.conftest import REPO
from tests.support.imports import folder_graph, imports, room

PACKAGES = ("tasks", "flows")
STAGES = sorted(path.stem for path in (REPO / "tasks").glob("*.py") if path.stem != "__init__")
OPEN_TO_FLOWS = {
    "tasks.stage", "tasks.models", "tasks.grading", "tasks.export", "tasks.multimodal", "tasks.retrieval",
    "tasks.ingestion", "tasks.check",
}  # fmt: skip
"""Rooms of `tasks` that a flow may import from; a stage it runs, and never imports."""
COMMANDS = {"__init__", "cli", "talking", "workspace", "graph"}
"""Modules that lie in `flows/` itself."""
PROPERTY = "Property: "
"""The beginning of the docstring of a test file that is about no single module."""


def sources(package: str) -> list[Path]:
    """Every source file of a package, of which there are many."""
    paths = sorted((REPO / package).rglob("*.py"))
    assert len(paths) > 30, f"{package}/ is not where this test looks for it"
    return paths


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_tests_is_one_of_the_package(package: str) -> None:
    folders = {path.parent.relative_to(REPO / "tests") for path in (REPO / "tests" / package).rglob("test_*.py")}
    assert len(folders) > 5
    assert [str(folder) for folder in sorted(folders) if not (REPO / folder).is_dir()] == []


def test_there_are_stages() -> None:
    assert {"data", "base", "sft", "report"} <= set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_in_tasks_is_a_stage_with_a_command_and_a_test(stage: str) -> None:
    text = (REPO / f"tasks/{stage}.py").read_text(encoding="utf-8")
    assert 'if __name__ == "__main__":' in text, "it runs nothing: what stages share is a folder"
    assert (REPO / f"tests/tasks/test_{stage}.py").exists()


def test_the_files_in_flows_are_the_commands() -> None:
    assert {path.stem for path in (REPO / "flows").glob("*.py")} == COMMANDS


@pytest.mark.parametrize("package", PACKAGES)
def test_a_test_file_is_named_after_a_module_or_says_that_it_is_of_a_property(package: str) -> None:
    nameless = [
        str(path.relative_to(REPO))
        for path in sorted((REPO / "tests" / package).rglob("test_*.py"))
        if not (REPO / path.parent.relative_to(REPO / "tests") / f"{path.stem.removeprefix('test_')}.py").exists()
        and not docstring(path).startswith(PROPERTY)
    ]
    assert nameless == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_name_begins_with_an_underscore(package: str) -> None:
    hidden = [path for path in sources(package) if path.stem.startswith("_") and not path.stem.startswith("__")]
    assert hidden == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_is_a_package_that_is_installed_and_says_what_it_answers(package: str) -> None:
    folders = {path.parent for path in sources(package)}
    assert len(folders) > 5
    names = {".".join(folder.relative_to(REPO).parts) for folder in folders}
    assert names == set(find_packages(str(REPO), include=[f"{package}*"]))
    assert [str(folder) for folder in sorted(folders) if not docstring(folder / "__init__.py")] == []


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Rooms that import each other, the first one again at the end; empty where imports run in one direction."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        return list(reversed(e.args[1]))
    return []


def test_imports_between_folders_run_in_one_direction() -> None:
    graph = folder_graph(REPO, PACKAGES)
    assert len(graph) > 40
    assert sum(len(rooms) for rooms in graph.values()) > 100
    assert circle(graph) == []


def test_a_circle_between_folders_is_found_also_inside_functions(tmp_path: Path) -> None:
    for name, text in {
        "tasks/one/a.py": "from tasks.two import b\n",
        "tasks/two/b.py": "def late():\n    import tasks.three.c\n",
        "tasks/three/c.py": "if TYPE_CHECKING:\n    from tasks.one import a\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    graph = folder_graph(tmp_path, ("tasks",))
    assert graph == {"tasks.one": {"tasks.two"}, "tasks.two": {"tasks.three"}, "tasks.three": set()}
    (tmp_path / "tasks/three/d.py").write_text("from tasks import one\n")
    assert set(circle(folder_graph(tmp_path, ("tasks",)))) == {"tasks.one", "tasks.two", "tasks.three"}


def test_flows_import_the_open_rooms_of_tasks_alone() -> None:
    taken = {(str(path.relative_to(REPO)), room(name)) for path in sources("flows") for name in imports(path)}
    of_tasks = {(path, name) for path, name in taken if name.split(".")[0] == "tasks"}
    assert len(of_tasks) > 20
    assert sorted((path, name) for path, name in of_tasks if name not in OPEN_TO_FLOWS) == []


def test_tasks_know_no_flow_and_no_service() -> None:
    taken = {(str(path.relative_to(REPO)), name.split(".")[0]) for path in sources("tasks") for name in imports(path)}
    assert ("tasks/sft.py", "tasks") in taken
    assert sorted((path, name) for path, name in taken if name in ("prefect", "mlflow", "flows")) == []


def test_no_test_imports_a_test() -> None:
    readers = {path: imports(path) for path in sorted((REPO / "tests").rglob("*.py"))}
    assert len(readers) > 100
    assert sum(any(name.startswith("tests.support") for name in names) for names in readers.values()) > 20
    borrowed = {
        str(path.relative_to(REPO)): name
        for path, names in readers.items()
        for name in names
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    }
    assert borrowed == {}


def test_the_libraries_are_not_shadowed() -> None:
    """The folder `mlflow/` is no package, and a flow file's own folder comes first on the path that Prefect makes."""
    assert not (REPO / "mlflow/__init__.py").exists()
    for folder in {path.parent for path in sources("flows")}:
        assert not {"mlflow.py", "tasks.py", "prefect.py", "ray.py", "kubernetes.py", "openai.py"} & {
            path.name for path in folder.glob("*.py")
        }
