"""What is refused before a stage leaves this machine: a result that would not come back, an input that stays here."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.graph import Graph
from flows.runners.placing import place
from tasks.stage.errors import ConfigError
from tests.support import cluster

OTHERS = """
  ever:
    cmd: python -m tasks.source params/${recipe}/source.yaml --out artifacts/ever
    deps: [tasks/source.py]
    outs: [artifacts/ever]
    always_changed: true
  own:
    cmd: python -m tasks.source params/${recipe}/source.yaml --out artifacts/own
    deps: [data]
    outs: [artifacts/own]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cluster.Site:
    made = cluster.make(tmp_path)
    monkeypatch.chdir(made.project.root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(made.project.root / ".polm/dvc"))
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text() + OTHERS)
    Path("data").mkdir()
    Path("data/rows.jsonl").write_text('{"a": 1}\n')
    with Path("runners.yaml").open("w") as f:
        file = made.runners(engine="slurm", output="/x", options={})
        YAML(typ="safe").dump(file | {"rules": [{"stages": "*", "runner": "there"}]}, f)
    return made


def placed(*targets: str) -> None:
    graph = Graph()
    place(Path("runners.yaml"), graph, graph.closure(list(targets)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
def test_a_stage_whose_result_would_not_come_back_is_refused(site: cluster.Site) -> None:
    placed("tail", "own")
    with pytest.raises(ConfigError, match=r"runners\.yaml: stage ever .*`\{stages: ever, runner: local\}`"):
        placed("ever")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
def test_an_input_that_git_ignores_is_refused_unless_dvc_does_not_see_it_either(site: cluster.Site) -> None:
    Path(".gitignore").write_text(Path(".gitignore").read_text() + "*.jsonl\n")
    with pytest.raises(ConfigError, match=r"data/rows\.jsonl: stage own, .*`dvc add data/rows\.jsonl`"):
        placed("own")
    placed("tail")  # others do not read it
    Path(".dvcignore").write_text("*.jsonl\n")
    placed("own")
