"""Property: the state of git is a commit, or git's own words and what to do."""

import os
import subprocess
from pathlib import Path

import pytest

from flows.doctor import checks
from flows.tracking.git import git_state


@pytest.fixture
def repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, whatever this machine's configuration of git says."""
    monkeypatch.setenv("HOME", str(workspace.parent))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    Path("code.py").write_text("x")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "-A"], check=True)
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "x"]
    subprocess.run(commit, check=True)
    return workspace


def test_a_commit_needs_no_words(repository: Path) -> None:
    state = git_state()
    assert set(state) == {"commit", "dirty"} and state["dirty"] == "false" and len(state["commit"]) == 40
    subprocess.run(["git", "config", "status.showUntrackedFiles", "no"], check=True)
    Path("new.py").write_text("x")
    assert git_state()["dirty"] == "true", "a file that git was not told of is a change, whatever it shows"


def test_a_working_copy_of_another_owner(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test it
    state = git_state()
    assert (state["commit"], state["dirty"]) == ("none", "true")
    assert "dubious ownership" in state["git_error"]
    assert f"`git config --global --add safe.directory {repository}`" in state["git_error"]
    (finding,) = checks.git()
    assert finding.level == "warn" and "dubious ownership" in finding.found and "safe.directory" in finding.remedy


def test_no_git_program(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    state = git_state()
    assert state["commit"] == "none" and state["git_error"].startswith("git is not installed; install it")
    Path("git").write_text("#!/bin/sh\n")  # not executable
    assert git_state()["git_error"].startswith("git cannot be started (Permission denied)")


def test_an_index_that_cannot_be_read_is_not_clean(repository: Path) -> None:
    Path(".git/index").write_bytes(b"garbage, and much of it" * 10)
    state = git_state()
    assert len(state["commit"]) == 40 and state["dirty"] == "true"
    assert "index" in state["git_error"]


def test_a_folder_without_a_repository_or_without_a_commit(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    assert "not a git repository" in git_state()["git_error"] and "git init" in git_state()["git_error"]
    subprocess.run(["git", "init", "-q"], check=True)
    error = git_state()["git_error"]
    assert error.startswith("no commit; ") and "git init" not in error and os.linesep not in error
