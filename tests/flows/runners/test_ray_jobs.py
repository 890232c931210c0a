"""Stages as tasks of a real Ray: two nodes in a network namespace, started by `infra/cluster/ray.sh`. Needs root."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.stage import artifact
from tests.conftest import REPO
from tests.support import cluster, data_stage, ray_meeting
from tests.support.ray_trip import ADDRESS

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
pytest.importorskip("ray", reason="pip install 'polm[ray]'")
SCRIPT = REPO / "infra/cluster/ray.sh"


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cluster's folder, with a short name: Ray's sockets lie in it."""
    folder = Path("/tmp", f"polm-ray-{os.getpid()}")
    try:
        cluster.start([SCRIPT, "start", folder, sys.executable])
        yield folder
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, daemons: Path) -> cluster.Site:
    made = cluster.make(tmp_path_factory.mktemp("site"))
    made.dvc("repro", "-q", "-s", "source")
    made.project.ran()
    return made


def inside(daemons: Path, module: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a module of this repository where it reaches Ray."""
    command = [str(SCRIPT), "inside", str(daemons), sys.executable, "-m", module, *words]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def trip(site: cluster.Site, daemons: Path, **asked: Any) -> dict[str, Any]:
    """Send `left` to Ray; returns what came of it."""
    text = json.dumps({"root": str(site.project.root.parent), "resources": {"polm": 0.1}} | asked)
    done = inside(daemons, "tests.support.ray_trip", text)
    # Ray says what it has to say of nodes at any time, behind the result too.
    result: dict[str, Any] = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    return result


def test_a_stage_runs_on_a_node_to_the_same_hash(site: cluster.Site, daemons: Path) -> None:
    site.project.set("left", value=4)
    result = trip(site, daemons)
    assert (result["outcome"], result["events"]) == ("done", [1, 2, 3, 4])
    assert site.project.ran() == []
    assert site.dvc("status", "left") == "Data and pipelines are up to date.\n"
    print("ray:", result["seconds"])  # noqa: T201
    there = site.hash()
    site.dvc("repro", "-q", "-s", "-f", "left")
    assert site.hash() == there


def test_stopping_ends_the_task_and_its_processes(site: cluster.Site, daemons: Path) -> None:
    site.project.set("left", value=2, sleep=600)
    assert trip(site, daemons, then="stop")["outcome"] == "stopped"
    cluster.wait_until_empty(site.work / "jobs")


def test_resources_that_no_node_has_are_said_and_given_up(site: cluster.Site, daemons: Path) -> None:
    site.project.set("left", value=2)
    outcome = trip(site, daemons, resources={"polm": 3}, queue_minutes=0.15)["outcome"]
    assert outcome.startswith("failed: waited longer than the 0.15 minutes of its runner's `queue_minutes`")
    assert outcome.endswith("Ray: none of 2 nodes has CPU 1, polm 3; the most that one has is CPU 2, polm 1")


def test_a_whole_graph_over_two_nodes_gives_the_lock_of_a_local_run(
    site: cluster.Site, daemons: Path, mlflow_template: Path, tmp_path: Path
) -> None:
    runner = {"engine": "ray", "address": ADDRESS, "cpus": 2, "resources": {}}
    summary = cluster.over_all_nodes(
        site, cluster.make(tmp_path), mlflow_template, runner, [str(SCRIPT), "inside", str(daemons)]
    )
    print("ray, whole graph:", json.dumps({name: row["parts"] for name, row in summary.items()}))  # noqa: T201


def test_rows_are_mapped_on_nodes_to_the_bytes_of_one_process(workspace: Path, daemons: Path) -> None:
    data_stage.write_rows(workspace, data_stage.numbered(12_000))
    made = {}
    for name, engine in (("alone", {}), ("ray", {"ray": ADDRESS})):
        with Path(f"{name}.yaml").open("w", encoding="utf-8") as f:
            YAML().dump(data_stage.recipe(**engine), f)
        done = inside(daemons, "tasks.data", f"{name}.yaml", "--out", f"artifacts/{name}")
        made[name] = artifact.verify(Path("artifacts", name)).files
    assert made["ray"] == made["alone"]
    assert re.search(r"pieces of work by node: \d+ on \S+ \(\w+\)", done.stderr), done.stderr


def test_pieces_of_work_go_to_both_nodes(tmp_path: Path, daemons: Path) -> None:
    done = inside(daemons, "tests.support.ray_meeting", str(tmp_path))
    assert done.stdout.splitlines() == [f"{piece} 2" for piece in range(ray_meeting.PIECES)]
