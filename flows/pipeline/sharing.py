"""What `polm run` fetches from DVC's remote before it starts anything, and sends there when it is done."""

from typing import Any

from rich.console import Console

from flows.graph import Graph
from flows.sharing import push as pushing
from flows.sharing import remote as remotes
from flows.sharing.pull import Puller
from flows.sharing.remote import Remote
from flows.terminal.board import duration, say, size


def before(*, push: bool) -> None:
    """Ask the remote that is pushed to, before the first step. Raises PolmError where there is none, or no answer."""
    if push:
        repo = _repo()
        remotes.contact(repo, remotes.required(repo))


def restore(graph: Graph, names: list[str], settled: set[str], forced: set[str]) -> bool:
    """Fetch and put back what others have computed, as far as it is known before anything has run, and say so.

    Args:
        graph: the pipeline.
        names: stages that are wanted, in running order.
        settled: those of them that are up to date.
        forced: those that are to run in any case.

    Returns:
        Whether anything was put back.

    Raises:
        PolmError: there is a remote, and it does not answer, or refuses us.
    """
    remote = _answering()
    if remote is None:
        return False
    with Console(stderr=True).status(f"fetching from {remote} …"):
        puller = Puller(graph, remote)
        puller.entries()
        restored = puller.restore(names, settled, forced)
    left = len(names) - len(settled) - len(restored.stages)
    if not restored.stages:
        say(f"{remote}: nothing for the {left} stages that have changed, as far as their inputs are known")
        return False
    say(
        f"restored {len(restored.stages)} stages in {duration(restored.seconds)}: {restored.files} files, "
        f"{size(restored.bytes)} from {remote}; {left} stages are left"
    )
    say(f"restored: {', '.join(restored.stages)}")
    return True


def puller(graph: Graph) -> Puller | None:
    """Return what fetches single outputs during a run; None without a remote, or with one that is empty."""
    remote = _answering(quietly=True)
    return Puller(graph, remote) if remote is not None else None


def after(names: list[str], *, push: bool) -> None:
    """Send what is up to date to the remote, and say what that was. Raises PolmError when the remote fails."""
    if not push:
        return
    remote = remotes.required(_repo())
    with Console(stderr=True).status(f"pushing to {remote} …"):
        pushed = pushing.push(remote, names)
    say(
        f"pushed {pushed.files} files, {size(pushed.bytes)}, and {pushed.entries} entries of the run-cache to {remote} "
        f"in {duration(pushed.seconds)}"
    )


def _answering(*, quietly: bool = False) -> Remote | None:
    """Return the remote, if there is one and it has anything in it. Raises PolmError where it does not answer."""
    repo = _repo()
    remote = remotes.configured(repo)
    if remote is None:
        return None
    if not remotes.contact(repo, remote):
        if not quietly:
            say(f"{remote}: nothing is there yet; `polm run --push` sends what is made here")
        return None
    return remote


def _repo() -> Any:
    from dvc.repo import Repo

    return Repo()
