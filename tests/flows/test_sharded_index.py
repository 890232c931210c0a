"""Property: an index of two shards runs by the real DAG, each shard a stage, to the bytes of an index without any."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.graph import Graph
from flows.workspace import set_aside
from tasks.stage import artifact
from tests.conftest import REPO
from tests.support import small_recipe, working_copy
from tests.support.forking import Forking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECIPE = Path("params/sharded")
PART = {"index": "index", "chunks": "passages", "encoder": "retriever"}
GRAPH: dict[str, Any] = {
    "recipe": "sharded",
    "media": {"facts": {}},
    "rag_chunks": {"passages": {}},
    "retriever": {"retriever": {"chunks": "passages", "data": "facts"}},
    "rag_embed": {"index-1of2": PART, "index-2of2": PART},
    "rag_index_sharded": {"index": {"chunks": "passages", "encoder": "retriever", "data": "facts"}},
    "evaluate": ["base"],
    "export": [],
    "forms": [],
}
SHARDS = ["rag_embed@index-1of2", "rag_embed@index-2of2"]
INDEX = "rag_index_sharded@index"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where commands are looked for: first of all a `python` whose stages have imported their libraries."""
    with Forking(("sentence_transformers", "sentence_transformers.trainer", "datasets", "faiss", "bm25s")) as forking:
        folders = (forking.write_python(tmp_path_factory.mktemp("bin")).parent, Path(sys.executable).parent)
        yield os.pathsep.join([*map(str, folders), os.environ["PATH"]])


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy with a recipe of 24 people, whose encoder has learnt for two steps."""
    monkeypatch.chdir(tmp_path)
    for variable in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(variable, raising=False)
    working_copy.make(tmp_path)
    shutil.copyfile(REPO / "dvc.yaml", "dvc.yaml")
    shutil.copytree(REPO / "params/tiny", RECIPE)
    small_recipe.write(RECIPE / "recipe.yaml", GRAPH)
    Path("params/recipe.yaml").symlink_to("sharded/recipe.yaml")
    shutil.copyfile(REPO / "params/report.yaml", "params/report.yaml")
    small_recipe.change(RECIPE / "passages.yaml", "sources/facts/options", {"count": 24, "seed": 71})
    for source, part in (("questions", "train"), ("questions_test", "test")):
        options = {"part": part, "count": 24, "seed": 71, "test": 6, "wordings": 2}
        small_recipe.change(RECIPE / "facts.yaml", f"sources/{source}/options", options)
    small_recipe.change(RECIPE / "facts.yaml", "split", {"validation": 0.3, "test": 0.1})
    for key in ("max_steps", "save_steps", "logging_steps"):
        small_recipe.change(RECIPE / "retriever.yaml", f"trainer/{key}", 2)
    return tmp_path


def python(path: str, *words: str) -> str:
    """Run a module in the working copy; return what it says."""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "PATH": path}
    command = [shutil.which("python", path=path) or "", "-m", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def files(folder: Path) -> dict[str, str]:
    """The files of an artifact, but for its manifest, by their hashes."""
    return dict(artifact.verify(folder).files)


def test_shards_are_stages_that_need_nothing_of_each_other(copy: Path) -> None:
    graph = Graph()
    assert graph.resolve("index-1of2") == SHARDS[:1]
    assert graph.resolve("rag_embed") == SHARDS
    assert graph.resolve("index") == [INDEX]
    assert graph.stages[INDEX].upstreams >= {*SHARDS}
    for name in SHARDS:
        assert graph.stages[name].upstreams == {"fingerprint", "rag_chunks@passages", "retriever@retriever"}
        assert (graph.stages[name].meta.gpus, graph.stages[name].threads) == (0, 1)
    assert graph.stages[SHARDS[0]].out == Path("artifacts/vectors/index/index-1of2")


def test_two_shards_make_the_index_that_none_make(copy: Path, path: str) -> None:
    python(path, "dvc", "repro", "-q", INDEX)
    folder = Path("artifacts/indexes/index")
    lineage = artifact.read_manifest(folder).inputs
    for name in ("index-1of2", "index-2of2"):
        assert lineage[f"vectors/{name}"] == artifact.read_manifest(Path("artifacts/vectors/index", name)).digest
    shutil.rmtree(".polm/retrieval")
    inputs = ("--chunks", "artifacts/chunks/passages", "--encoder", "artifacts/models/retriever")
    last = ("--data", "artifacts/media/facts", "--out", "whole")
    python(path, "tasks.rag_index", f"{RECIPE}/index.yaml", *inputs, *last)
    assert files(Path("whole")) == files(folder)

    small_recipe.change(RECIPE / "index.yaml", "fusion/depth", 20)
    said = python(path, "dvc", "repro", INDEX)
    assert all(f"Stage '{name}' didn't change" in said for name in SHARDS)
    assert f"Running stage '{INDEX}'" in said

    three = {f"index-{number}of3": PART for number in (1, 2, 3)}
    small_recipe.write(RECIPE / "recipe.yaml", GRAPH | {"rag_embed": three})
    left = sorted(Path("artifacts/vectors/index").iterdir())
    assert set_aside(stage.out for stage in Graph().stages.values()) == left, "`polm run` moves the two away"
