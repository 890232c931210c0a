"""Code as a commit: what is in it, what stays untouched, and which settings of DVC do not travel."""

import subprocess
import threading
from pathlib import Path

import pytest

from flows import workspace
from flows.runners import code
from tasks.stage.errors import ConfigError, PolmError
from tests.support import cluster


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cluster.Site:
    made = cluster.make(tmp_path)
    monkeypatch.chdir(made.project.root)
    return made


def test_an_unchanged_copy_is_sent_as_its_commit(site: cluster.Site) -> None:
    Path("dvc.lock").write_text("schema: '2.0'\n")  # a run's own
    sent = code.send(str(site.shared / "code.git"), "left", threading.Event())
    assert (sent.dirty, sent.head) == (False, git("rev-parse", "HEAD"))
    assert sent.ref == f"refs/polm/{workspace.identity()}/left"
    assert git("--git-dir", str(site.shared / "code.git"), "rev-parse", sent.ref) == sent.commit
    assert git("diff", "--name-only", sent.head, sent.commit) == "dvc.lock"


def test_uncommitted_changes_travel_and_are_said_and_the_copy_stays_as_it_is(site: cluster.Site) -> None:
    site.project.set("left", value=77)
    Path("tasks/new.py").write_text("")
    Path("ran.txt").write_text("ignored by git")
    before = git("status", "--porcelain"), git("rev-parse", "HEAD"), Path(".git/index").read_bytes()
    sent = code.send(str(site.shared / "code.git"), "left", threading.Event())
    assert sent.dirty
    assert "with uncommitted changes" in str(sent)
    assert git("diff", "--name-only", sent.head, sent.commit).split() == ["params/toy/left.yaml", "tasks/new.py"]
    assert git("show", f"{sent.commit}:params/recipe.yaml") == "toy/recipe.yaml"  # the link to the active recipe
    git("update-index", "-q", "--refresh")
    assert (git("status", "--porcelain"), git("rev-parse", "HEAD")) == before[:2]


def test_gits_own_words_when_there_is_no_such_repository(site: cluster.Site) -> None:
    with pytest.raises(PolmError, match=r"git push: fatal: .*nowhere.*`git init --bare` makes one"):
        code.send(str(site.shared / "nowhere.git"), "left", threading.Event())


def test_the_default_remote_is_one_that_another_machine_finds(site: cluster.Site) -> None:
    assert code.default_remote() == "shared"
    config = Path(".dvc/config")
    text = config.read_text()
    config.write_text(text.replace(f"url = {site.shared}", "url = ../shared"))
    with pytest.raises(ConfigError, match=r"\.dvc/config: the remote 'shared' is the relative path \.\./shared"):
        code.default_remote()
    config.write_text("[core]\n    analytics = false\n")
    Path(".dvc/config.local").write_text(text)
    with pytest.raises(ConfigError, match="is set elsewhere"):
        code.default_remote()
    Path(".dvc/config.local").unlink()
    with pytest.raises(ConfigError, match=r"core\.remote: no default remote"):
        code.default_remote()
