"""Property: what a fork of a parent with torch finds and computes is what a fresh process does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.stage import artifact
from tasks.stage.config import read_yaml
from tests.conftest import REPO
from tests.support.warm import Place, probing

pytestmark = pytest.mark.slow
LIBRARIES = ("torch", "transformers.models.llama.modeling_llama")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A project with the probe, and a parent that has imported what pre-training needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPO))
        with probing(tmp_path_factory.mktemp("project"), *LIBRARIES) as place:
            yield place


def test_a_fork_finds_what_a_fresh_process_finds(place: Place) -> None:
    code, said = place.run("facts", "--flag", "a b", DVC_STAGE="probe", PYTHONPATH=str(REPO))
    assert code == 0, said
    forked: dict[str, Any] = json.loads(said.splitlines()[0])
    assert said.splitlines()[1:] == ["said to stderr"]
    fresh_process = place.start(
        "facts", "--flag", "a b", python=sys.executable, DVC_STAGE="probe", PYTHONPATH=str(REPO)
    )
    assert fresh_process.wait(60) == 0
    fresh = json.loads(place.log.read_text().splitlines()[0])
    assert forked["environment"].pop("POLM_WARM_THREADS") == "1"  # which a stage takes out first of all
    assert forked["shell"] == f"{place.root}/logs/e\n"
    assert forked["files"] == fresh["files"]
    assert forked == fresh


def test_forks_do_not_share_what_is_drawn_by_chance(place: Place) -> None:
    drawn = [place.run("random", PYTHONPATH=str(REPO))[1].split() for _ in range(2)]
    assert [len(set(pair)) for pair in zip(*drawn, strict=True)] == [2, 2, 2]


def test_the_weights_are_those_of_a_fresh_process(place: Place, workspace: Path, sums_data: Path) -> None:
    """The fork has the hash seed of its parent, and the fresh process one of its own: both give the same bytes.

    So do those of TRL's trainers: in `tests/test_end_to_end.py`, `polm run` forks and `dvc repro` does not.
    """
    values = read_yaml(REPO / "params/tiny/base.yaml")
    values["threads"] = 1
    values["source"]["scratch"] |= {"steps": 2, "batch_size": 4, "checkpoint_steps": 2}
    with (workspace / "base.yaml").open("w") as f:
        YAML(typ="safe").dump(values, f)
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    environment |= {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(REPO)}
    manifests = []
    for python, out in ((place.script, "forked"), (sys.executable, "fresh")):
        command = [python, "-m", "tasks.base", "base.yaml", "--data", str(sums_data), "--out", f"artifacts/{out}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "process of its own" not in done.stderr
        manifests.append(artifact.verify(Path("artifacts", out)))
    assert manifests[0] == manifests[1]
