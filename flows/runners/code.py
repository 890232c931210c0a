"""How code travels: a commit of the working copy as it is, pushed to a repository that the other machine reaches.

The commit holds `dvc.lock` too, which changes with every stage and by which the other side finds its inputs. It is on
no branch: neither `HEAD` nor the index of the working copy is touched.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.lock import make_lock

from flows import workspace
from flows.runners import calls
from tasks.stage.errors import ConfigError, PolmError

BOOKKEEPING = ":(exclude)dvc.lock"
"""Uncommitted changes of this file are a run's own, and do not make its code another one."""
_AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "polm"), ("EMAIL", "polm@localhost"))
}


@dataclass(frozen=True)
class Snapshot:
    """The code of one stage, as another machine fetches it."""

    ref: str
    """Reference in the shared repository."""
    commit: str
    """Commit that it points to, 40 hex digits."""
    head: str
    """Commit that the working copy is based on."""
    dirty: bool
    """Whether anything besides `dvc.lock` differs from that commit."""

    def __str__(self) -> str:
        return f"commit {self.head[:12]}{' with uncommitted changes' if self.dirty else ''} (sent as {self.ref})"


def send(repository: str, name: str, stopping: threading.Event) -> Snapshot:
    """Commit what is here, untracked files too that git does not ignore, and push it.

    Args:
        repository: URL or path of the shared repository.
        name: of the job; its reference is `refs/polm/<owner>/<name>`.
        stopping: set when the run is to end.

    Raises:
        Stopped: `stopping` was set.
        PolmError: no commit to start from, or git refuses the push; in git's own words.
    """
    head = _git("rev-parse", "--verify", "HEAD", remedy="commit the working copy: code travels by commit")
    with tempfile.TemporaryDirectory(prefix="polm-index-") as folder:
        env = _AUTHOR | {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        _git("read-tree", "HEAD", env=env)
        with lock_file():
            _git("add", "--all", env=env)
        tree = _git("write-tree", env=env)
        changes = _git("diff", "--cached", "--name-only", "HEAD", "--", ".", BOOKKEEPING, env=env)
        commit = head
        if tree != _git("rev-parse", "HEAD^{tree}"):
            commit = _git("commit-tree", tree, "-p", head, "-m", f"polm: working copy for {name}", env=env)
    ref = f"refs/polm/{workspace.identity()}/{name}"
    remedy = "`code:` of the runners' file names a repository that both sides reach; `git init --bare` makes one"
    _git("push", "--quiet", "--force", repository, f"{commit}:{ref}", remedy=remedy, stopping=stopping)
    return Snapshot(ref, commit, head, bool(changes))


def ignored(paths: Sequence[str]) -> list[Path]:
    """List the files that git ignores among files and below folders: they are in no commit."""
    listed = _git("ls-files", "--others", "--ignored", "--exclude-standard", "-z", "--", *paths)
    return [Path(name) for name in listed.split("\0") if name]


def default_remote() -> str:
    """Return the name of DVC's default remote, through which inputs and outputs travel.

    Raises:
        ConfigError: there is none in `.dvc/config`, or its path is relative and so another one elsewhere.
    """
    from dvc.repo import Repo

    config = Repo().config
    name: str = config["core"].get("remote", "")
    if not name:
        raise ConfigError(
            ".dvc/config: core.remote: no default remote, through which inputs and outputs travel; "
            "`dvc remote add --default storage URL`"
        )
    shared = Path(".dvc/config").read_text(encoding="utf-8")
    if f"remote = {name}" not in shared or f'remote "{name}"' not in shared:
        raise ConfigError(
            f".dvc/config: the default remote '{name}' is set elsewhere (.dvc/config.local, or the user's settings), "
            f"which does not travel; `dvc remote add --default {name} URL`, and secrets by environment variables"
        )
    url = next((line.split("=", 1)[1].strip() for line in _section(shared, name) if line.startswith("url")), "")
    if "://" not in url and not url.startswith("/"):
        raise ConfigError(
            f".dvc/config: the remote '{name}' is the relative path {url}, another one on another machine; "
            f"`dvc remote modify {name} url` with an absolute path"
        )
    return name


@contextlib.contextmanager
def lock_file() -> Iterator[None]:
    """Hold DVC's lock of the working copy, so that no `dvc` is writing `dvc.lock` meanwhile."""
    folder = Path(".dvc/tmp")
    folder.mkdir(parents=True, exist_ok=True)
    with make_lock(str(folder / "lock"), wait=True):
        yield


def _section(text: str, remote: str) -> list[str]:
    """Return the lines of a remote's section of a DVC configuration, stripped."""
    lines = [line.strip() for line in text.splitlines()]
    start = next(number for number, line in enumerate(lines) if f'remote "{remote}"' in line)
    end = next((n for n, line in enumerate(lines) if n > start and line.startswith("[")), len(lines))
    return lines[start + 1 : end]


def _git(
    *arguments: str,
    env: dict[str, str] | None = None,
    remedy: str = "see `git status`",
    stopping: threading.Event | None = None,
) -> str:
    whole = os.environ | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"} | (env or {})
    done = calls.call(["git", *arguments], stopping or threading.Event(), whole)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise PolmError(f"git {arguments[0]}: {said}; {remedy}")
    return done.stdout.strip()
