"""What a node does before a stage runs there, and after it."""

import contextlib
import itertools
import threading
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


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy with a thousand files."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "copy/tmp"
    folder.mkdir(parents=True)
    for number in range(1000):
        (folder / f"before-{number}").touch()
    return tmp_path / "copy"


def write_until(stopping: threading.Event, folder: Path) -> threading.Thread:
    """Add files to a folder, as long as it is there."""

    def write() -> None:
        for number in itertools.count():
            if stopping.is_set() or not folder.exists():
                return
            try:
                (folder / f"late-{number}").touch()
            except FileNotFoundError:
                return

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_a_working_copy_into_which_something_still_writes_is_removed_all_the_same(copy: Path) -> None:
    stopping = threading.Event()
    thread = write_until(stopping, copy / "tmp")
    threading.Timer(0.5, stopping.set).start()
    assert remote_stage._remove(copy) is None
    assert not copy.exists()
    thread.join()


def test_what_stays_of_a_working_copy_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_stage, "REMOVING", 0.0)
    stopping = threading.Event()
    thread = write_until(stopping, copy / "tmp")
    try:
        assert remote_stage._remove(copy) == copy / "tmp"
    finally:
        stopping.set()
        thread.join()
