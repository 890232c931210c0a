"""The doctor's look at a runners' file; a real Slurm is asked in `tests/flows/runners/test_slurm_jobs.py`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.doctor import runners
from flows.doctor.machine import Finding
from flows.runners import slurm_jobs
from flows.runners.listening import Lines
from tests.conftest import REPO
from tests.support import cluster


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cluster.Site:
    made = cluster.make(tmp_path)
    monkeypatch.chdir(made.project.root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(made.project.root / ".polm/dvc"))
    (made.project.root / "pyproject.toml").write_text((REPO / "pyproject.toml").read_text())
    return made


def examined(site: cluster.Site, **changes: Any) -> dict[str, list[Finding]]:
    values = site.runners(engine="slurm", output=str(site.shared / "output"), options={}) | changes
    with Path("runners.yaml").open("w") as f:
        YAML(typ="safe").dump(values, f)
    found: dict[str, list[Finding]] = {}
    for finding in runners.examine(Path("runners.yaml")):
        assert finding.level == "ok" or finding.remedy or ";" in finding.found, finding
        found.setdefault(finding.check, []).append(finding)
    return found


def here(runner: Any, gpus: int, name: str, script: str) -> Lines:
    """Run the script on this machine, in place of an engine."""
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
    yield None
    yield from (f"{line}\n" for line in (done.stdout + done.stderr).split("\n"))


def test_a_file_that_is_wrong_is_one_finding(site: cluster.Site) -> None:
    (found,) = examined(site, rules=[{"stages": "left", "runner": "nowhere"}])["runners"]
    assert found.level == "fail" and "no runner 'nowhere'" in found.found


def test_what_the_runners_share(site: cluster.Site) -> None:
    found = examined(site, runners={}, rules=[])
    assert [finding.level for finding in (*found["runners' code"], *found["runners' remote"])] == ["ok", "ok"]
    found = examined(site, code=str(site.shared / "nowhere.git"), runners={}, rules=[])
    assert found["runners' code"][0].level == "fail" and "nowhere.git" in found["runners' code"][0].found
    Path(".dvc/config").write_text("[core]\n    analytics = false\n")
    assert "no default remote" in examined(site, runners={}, rules=[])["runners' remote"][0].found


def test_a_node_is_asked_for_its_python_and_folders(
    site: cluster.Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runners, "_slurm", lambda name, runner: iter(()))
    monkeypatch.setattr(slurm_jobs, "lines", here)
    found = examined(site)
    assert [finding.level for finding in found["runner there node"]] == ["ok"]
    assert f"Python {sys.version.split()[0]}" in found["runner there node"][0].found

    blocked = tmp_path / "file"
    blocked.touch()
    values = site.runners(engine="slurm", output="/x", options={}, work=str(blocked / "work"))
    (finding,) = examined(site, runners=values["runners"])["runner there work"]
    assert finding.level == "fail" and "Not a directory" in finding.found

    values = site.runners(engine="slurm", output="/x", options={}, python=str(tmp_path / "no/python"))
    (finding,) = examined(site, runners=values["runners"])["runner there"]
    assert finding.level == "fail" and "no/python" in finding.found
