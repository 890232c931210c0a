"""Stages as jobs of a real Slurm: two nodes on loopback, started by `infra/cluster/slurm.sh`. Needs root."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.doctor import runners as doctor
from flows.runners import listening, slurm_jobs
from flows.runners.settings import Slurm
from tasks.stage.errors import ConfigError, PolmError, StageFailed, Stopped
from tests.conftest import REPO
from tests.support import cluster, toy

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPT = REPO / "infra/cluster/slurm.sh"


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cluster's folder; `SLURM_CONF` is set."""
    folder = tmp_path_factory.mktemp("slurm")
    cluster.start([SCRIPT, "start", folder])
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        yield folder
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True, timeout=60)
        del os.environ["SLURM_CONF"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, daemons: Path) -> cluster.Site:
    made = cluster.make(tmp_path_factory.mktemp("site"))
    made.dvc("repro", "-q", "-s", "source")
    return made


@pytest.fixture
def told(site: cluster.Site, monkeypatch: pytest.MonkeyPatch) -> cluster.Told:
    monkeypatch.chdir(site.project.root)
    for name, value in site.project.environment().items():
        monkeypatch.setenv(name, value)
    site.project.ran()
    return cluster.Told()


def values(site: cluster.Site, **options: Any) -> dict[str, Any]:
    return site.runners(engine="slurm", output=str(site.shared / "output"), options=options)


def run(site: cluster.Site, told: cluster.Told, *, queue_minutes: float | None = None, **options: Any) -> str:
    file = values(site, **options)
    file["runners"]["there"]["queue_minutes"] = queue_minutes
    runners = cluster.parsed(file)
    there = runners.runners["there"]
    assert isinstance(there, Slurm)
    return slurm_jobs.run(told.job(site), runners, there, told.stopping)


def queue() -> str:
    return subprocess.run(["squeue", "--noheader", "--format=%T"], capture_output=True, text=True, check=True).stdout


def test_a_stage_runs_on_a_node_to_the_same_hash(site: cluster.Site, told: cluster.Told) -> None:
    site.project.set("left", value=4)
    assert run(site, told, partition="main") == "done"
    assert [event["done"] for event in told.events] == [1, 2, 3, 4]
    assert site.project.ran() == []
    assert site.dvc("status", "left") == "Data and pipelines are up to date.\n"
    assert queue() == ""
    assert list((site.shared / "output").iterdir()) == []
    print("slurm:", told.seconds)  # noqa: T201
    there = site.hash()
    site.dvc("repro", "-q", "-s", "-f", "left")
    assert site.hash() == there


def test_stopping_cancels_the_job(site: cluster.Site, told: cluster.Told) -> None:
    site.project.set("left", value=2, sleep=600)
    told.on_start = told.stopping.set
    with pytest.raises(Stopped):
        run(site, told)
    assert queue() == ""
    cluster.wait_until_empty(site.work / "jobs")


def test_slurms_own_words_when_it_refuses(site: cluster.Site, told: cluster.Told) -> None:
    with pytest.raises(PolmError, match="invalid partition specified: nowhere"):
        run(site, told, partition="nowhere")
    with pytest.raises(ConfigError, match=r"options\.requeue: `polm run` sets this option"):
        run(site, told, requeue="")


def test_a_job_that_slurm_does_not_start_is_said_and_given_up(
    site: cluster.Site, told: cluster.Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "SHOWN", 0.5)
    partition = ["scontrol", "update", "partitionname=main"]
    subprocess.run([*partition, "state=down"], check=True)
    try:
        with pytest.raises(StageFailed, match=r"longer than the 0\.1 minutes of its runner's") as caught:
            run(site, told, queue_minutes=0.1)
    finally:
        subprocess.run([*partition, "state=up"], check=True)
    assert [re.sub(r"\d+", "N", text) for text in told.waits] == ["Slurm's job N is PENDING (PartitionDown)"]
    assert "PartitionDown" in caught.value.text
    assert not caught.value.retry
    assert queue() == ""


def test_a_dead_controller_is_said_and_given_up(
    site: cluster.Site, told: cluster.Told, daemons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "SHOWN", 0.0)
    monkeypatch.setattr(slurm_jobs, "DEAF", 1)
    site.project.set("left", value=3, sleep=600)
    told.on_start = lambda: subprocess.run([SCRIPT, "lose", daemons, "slurmctld"], check=True)
    try:
        with pytest.raises(StageFailed, match="Slurm left 1 questions in a row without an answer") as caught:
            run(site, told)
        assert caught.value.retry
        assert any("Slurm does not answer" in reason for reason in told.waits), told.waits
    finally:
        subprocess.run([SCRIPT, "back", daemons, "slurmctld"], check=True)
    site.project.set("left", value=3)
    told.on_start = None
    assert run(site, told) == "done"  # the lost job, which still ran, was cancelled first
    assert queue() == ""


def test_the_doctor_asks_slurm_and_a_node(site: cluster.Site, told: cluster.Told, tmp_path: Path) -> None:
    """Here the packages are those of this machine, and every folder is writable."""

    def findings(**options: Any) -> list[str]:
        path = tmp_path / "runners.yaml"
        with path.open("w") as f:
            YAML(typ="safe").dump(values(site, **options), f)
        shutil.copyfile(REPO / "pyproject.toml", "pyproject.toml")
        return [f"{found.level} {found.check}: {found.found}" for found in doctor.examine(path)]

    said = findings()
    assert [line for line in said if line.startswith("fail")] == []
    assert any(line.startswith("ok runner there: slurm-wlm ") for line in said), said
    assert any(line.startswith("ok runner there node: polm-n") for line in said), said
    assert "fail runner there: no partition 'gpu'" in findings(partition="gpu")
    assert queue() == ""


def test_a_lost_node_is_said_and_another_goes_on_from_the_checkpoint(
    site: cluster.Site, told: cluster.Told, daemons: Path
) -> None:
    site.project.set("left", value=12, sleep=0.5)
    told.on_event_done = 4, lambda: subprocess.run([SCRIPT, "lose", daemons, "polm-n1"], check=True)
    with pytest.raises(StageFailed, match=r"Slurm's job \d+ ended as NODE_FAIL|its engine ended it") as caught:
        run(site, told, nodelist="polm-n1")
    assert caught.value.retry
    told.on_event_done = None
    assert run(site, told, nodelist="polm-n2") == "done"
    assert "resuming from step" in (site.project.root / ".polm/logs/run/left.log").read_text()
    cluster.wait_until_empty(site.work / "jobs")
    there = site.hash()
    site.dvc("repro", "-q", "-s", "-f", "left")
    assert site.hash() == there
    subprocess.run([SCRIPT, "back", daemons, "polm-n1"], check=True)
    deadline = time.monotonic() + 60
    while "idle 2" not in subprocess.run(["sinfo", "-h", "-o", "%T %D"], capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_whole_graph_over_two_nodes_gives_the_lock_of_a_local_run(
    site: cluster.Site, told: cluster.Told, mlflow_template: Path, tmp_path: Path
) -> None:
    runner = {"engine": "slurm", "output": str(site.shared / "output"), "options": {}}
    summary = cluster.over_all_nodes(site, cluster.make(tmp_path), mlflow_template, runner, [])
    print("slurm, whole graph:", json.dumps({name: row["parts"] for name, row in summary.items()}))  # noqa: T201
    assert toy.survivors(site.project) == []
