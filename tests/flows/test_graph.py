"""The graph as DVC sees it: closure, what is unchanged, versions, and what is wrong with it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.graph import Graph, Meta
from tasks.stage.errors import ArtifactError, ConfigError, PolmError
from tests.support import toy


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> toy.Toy:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".polm/dvc"))
    return toy.make(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> toy.Toy:
    """A project whose stages all ran, by DVC alone."""
    project = toy.make(tmp_path_factory.mktemp("built"))
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "-q"], cwd=project.root, env=project.environment(), check=True
    )
    return project


@pytest.fixture
def done(built: toy.Toy, monkeypatch: pytest.MonkeyPatch) -> Iterator[toy.Toy]:
    monkeypatch.chdir(built.root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(built.root / ".polm/dvc"))
    yield built
    for stage in ("source", "left", "right", "tail"):
        built.set(stage)


def test_graph_expands_the_matrix_and_orders_upstreams_first(project: toy.Toy) -> None:
    stages = Graph().stages
    assert list(stages) == ["source", "left", "right", "tail@x", "tail@y"]
    assert stages["tail@y"].upstreams == {"left"}
    assert stages["tail@y"].out == Path("artifacts/tail/y")
    assert stages["right"].meta == Meta(timeout=5, retries=0, gpus=1)
    assert stages["tail@x"].meta == Meta()


def test_what_a_stage_reads_is_its_inputs_or_all_that_they_were_made_from(project: toy.Toy) -> None:
    assert Graph().reads("tail@x") == {"left"}
    project.replace(
        "outs: ['artifacts/tail/${item.item}']", "outs: ['artifacts/tail/${item.item}']\n    meta: {origins: true}"
    )
    assert Graph().reads("tail@x") == {"left", "source"}


def test_order_follows_edges_and_not_the_file(project: toy.Toy) -> None:
    text = (project.root / "dvc.yaml").read_text()
    head, stages = text.split("stages:\n")
    blocks = stages.split("  left:\n")
    (project.root / "dvc.yaml").write_text(f"{head}stages:\n  left:\n{blocks[1]}{blocks[0]}")
    order = list(Graph().stages)
    assert order.index("source") < order.index("left") < order.index("tail@x")


def test_closure_holds_the_targets_and_all_they_need(project: toy.Toy) -> None:
    graph = Graph()
    assert graph.closure(["tail@x"]) == ["source", "left", "tail@x"]
    assert graph.closure(["tail"]) == ["source", "left", "tail@x", "tail@y"]
    assert graph.closure(["right", "source"]) == ["source", "right"]
    assert graph.closure([]) == list(graph.stages)
    with pytest.raises(ConfigError, match="no model, method or stage 'rihgt'; did you mean 'right'"):
        graph.closure(["rihgt"])


HEARING = ("media@spoken", "vlm@hearing", "evaluate_media@hearing")


def test_what_needs_a_missing_module_is_no_stage_here(project: toy.Toy) -> None:
    project.add_media("no_such_module_of_polm")
    graph = Graph()
    assert graph.stages.keys().isdisjoint(HEARING)
    assert {"media@photos", "vlm@seeing", "evaluate_media@seeing", "all"} <= graph.stages.keys()
    assert graph.stages["all"].upstreams == {"media@photos", "vlm@seeing", "evaluate_media@seeing"}
    assert graph.closure(["all"]) == ["media@photos", "vlm@seeing", "evaluate_media@seeing", "all"]
    assert graph.resolve("vlm") == ["vlm@seeing"]
    absent = "no_such_module_of_polm"
    remedy = f"{absent} is in no extra of polm: install the package that has it, or correct `needs`"
    said = f"left out here, without {absent}: spoken, hearing; {remedy}"
    assert graph.notices == [said]
    for target in ("hearing", "spoken", *HEARING):
        with pytest.raises(ConfigError, match=f"'{target}' is not made here: {said}"):
            graph.closure([target])
    assert Path("artifacts/models/hearing") in graph.outs, "what another machine made is not set aside"


def test_what_needs_a_module_that_is_here_is_a_stage(project: toy.Toy) -> None:
    project.add_media("json")
    graph = Graph()
    assert graph.stages.keys() >= set(HEARING)
    assert graph.stages["all"].upstreams >= {"vlm@hearing", "evaluate_media@hearing"}
    assert graph.closure(["hearing"]) == ["media@spoken", "vlm@hearing"]
    assert graph.notices == []


def test_threads_are_the_recipes(project: toy.Toy) -> None:
    project.replace("threads: 1", "threads: 3", "params/toy/left.yaml")
    project.replace("threads: 1\n", "", "params/toy/right.yaml")
    stages = Graph().stages
    assert [stages[name].threads for name in ("left", "right", "tail@x")] == [3, 1, 1]


def test_depth_puts_the_longest_chain_first(project: toy.Toy) -> None:
    graph = Graph()
    assert [graph.depth(name) for name in ("source", "left", "right", "tail@x")] == [3, 2, 1, 1]


def test_nothing_is_settled_before_the_first_run(project: toy.Toy) -> None:
    graph = Graph()
    assert graph.settled(list(graph.stages), set()) == set()


def test_everything_is_settled_after_a_run(done: toy.Toy) -> None:
    graph = Graph()
    assert graph.settled(list(graph.stages), set()) == set(graph.stages)


def test_a_changed_param_unsettles_the_stage_and_what_follows(done: toy.Toy) -> None:
    done.set("left", value=2)
    graph = Graph()
    assert graph.settled(list(graph.stages), set()) == {"source", "right"}
    assert graph.unchanged("tail@x")  # by itself: whether it runs is decided when `left` has ended


def test_a_changed_command_unsettles_the_stage(done: toy.Toy) -> None:
    done.replace("right.yaml --model", "right.yaml  --model")
    try:
        assert not Graph().unchanged("right")
    finally:
        done.replace("right.yaml  --model", "right.yaml --model")
    assert Graph().unchanged("right")


def test_force_unsettles_what_follows(done: toy.Toy) -> None:
    graph = Graph()
    assert graph.settled(list(graph.stages), {"left"}) == {"source", "right"}


def test_a_changed_output_unsettles_its_stage(done: toy.Toy) -> None:
    path = done.root / "artifacts/right/value.txt"
    path.write_text("changed by hand")
    graph = Graph()
    assert graph.settled(list(graph.stages), set()) == {"source", "left", "tail@x", "tail@y"}
    path.write_text("1")
    assert "right" in graph.settled(list(graph.stages), set())


def test_version_changes_with_params_and_inputs_only(done: toy.Toy) -> None:
    before = {name: Graph().version(name) for name in ("source", "left", "right")}
    assert len(set(before.values())) == 3
    assert {name: Graph().version(name) for name in before} == before
    done.set("left", value=5)
    after = {name: Graph().version(name) for name in before}
    assert after["left"] != before["left"]
    assert (after["source"], after["right"]) == (before["source"], before["right"])


def test_version_needs_the_inputs(project: toy.Toy) -> None:
    with pytest.raises(ArtifactError, match="stage left: an input cannot be read"):
        Graph().version("left")


def test_misspelt_meta_is_named(project: toy.Toy) -> None:
    project.replace("retries: 1", "retires: 1")
    with pytest.raises(ConfigError, match=r"dvc\.yaml: left\.meta: unknown key 'retires'; did you mean 'retries'"):
        Graph()


def test_broken_dvc_yaml_is_named(project: toy.Toy) -> None:
    project.replace("${recipe}/left.yaml --model", "${recip}/left.yaml --model")
    with pytest.raises(ConfigError, match=r"dvc\.yaml.*recip"):
        Graph()


@pytest.mark.parametrize("content", ["", "stages: [", "schema: '2.0'\nstages:\n  source: 3\n"])
def test_a_broken_lock_file_has_a_remedy(project: toy.Toy, content: str) -> None:
    (project.root / "dvc.lock").write_text(content)
    with pytest.raises(PolmError, match=r"dvc\.lock cannot be read .*git checkout dvc\.lock"):
        Graph()


def test_no_dvc_folder_has_a_remedy(project: toy.Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.root / ".dvc").rename(project.root / "elsewhere")
    with pytest.raises(PolmError, match=r"git checkout \.dvc"):
        Graph()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [", r"dvc\.yaml:[12]: "),
        ("stages:\n  a:\n   cmd: x\n  b: [\n", r"dvc\.yaml:[45]: "),
        ("- a\n", r"dvc\.yaml: expected a mapping of keys to values, found list"),
        ("", r"dvc\.yaml: .*nothing|dvc\.yaml: no stages; restore it with `git checkout dvc\.yaml`"),
        ("stages: {}\n", r"dvc\.yaml: no stages; restore it with `git checkout dvc\.yaml`"),
    ],
)
def test_a_dvc_yaml_without_stages_is_not_up_to_date(project: toy.Toy, text: str, said: str) -> None:
    (project.root / "dvc.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        Graph()


def test_a_dvc_folder_that_cannot_be_written_is_named(project: toy.Toy) -> None:
    (project.root / ".dvc/tmp").touch()
    with pytest.raises(
        PolmError, match=r"DVC cannot work here: .*\.dvc/tmp.*: a file stands where a folder is expected"
    ):
        Graph()
