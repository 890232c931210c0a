"""What a node does before a stage runs there."""

import contextlib
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.runners import remote_stage
from tests.support import cluster


def test_a_remote_that_takes_nothing_is_found_before_the_stage_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = cluster.make(tmp_path)
    monkeypatch.chdir(site.project.root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(site.project.root / ".polm/dvc"))
    storage = site.shared / "storage"
    with contextlib.closing(Repo()) as repo:
        remote_stage._try_to_write(repo)
        assert [path for path in storage.rglob("*") if path.is_file()] == []
    storage.rename(storage.with_name("aside"))
    storage.touch()
    with contextlib.closing(Repo()) as repo, pytest.raises(OSError, match="storage"):
        remote_stage._try_to_write(repo)
