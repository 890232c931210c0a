"""Give to others what was made here: the outputs in DVC's remote, then the entries of the run-cache that name them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.graph import Graph
from flows.sharing import remote as remotes
from flows.sharing.pull import RUNS
from flows.sharing.remote import Remote
from tasks.stage.errors import PolmError

KEPT = "the results are here; `polm run --push` sends them once it takes them"


@dataclass(frozen=True)
class Pushed:
    """What a push sent."""

    files: int
    """Files that the remote did not have."""
    bytes: int
    entries: int
    """Entries of the run-cache that the remote did not have."""
    seconds: float


def push(remote: Remote, names: list[str]) -> Pushed:
    """Send the outputs of stages that are up to date, with the entries of the run-cache that lead to them.

    The entries go last: one that is in the remote has its outputs there.

    Args:
        remote: where to; it has answered.
        names: stages of the graph; one that is not up to date is left out.

    Raises:
        PolmError: the remote fails, or the cache lacks an output.
    """
    start = time.perf_counter()
    graph = Graph()
    repo = graph.repo
    with remotes.troubles(remote, KEPT), remotes.quiet(), repo.lock:
        stages = [graph.dvc_stage(name) for name in names if graph.unchanged(name)]
        objects = {obj for stage in stages for objs in stage.get_used_objs(push=True).values() for obj in objs}
        result = repo.cloud.push(objects, remote=remote.name)
        if result.failed:
            raise PolmError(f"{remote}: {len(result.failed)} files could not be pushed; `dvc push` says which")
        paths = [Path(repo.cache.local.oid_to_path(obj.value)) for obj in result.transferred]
        entries = _entries(repo, remote, stages)
    return Pushed(len(paths), sum(path.stat().st_size for path in paths), entries, time.perf_counter() - start)


def _entries(repo: Any, remote: Remote, stages: list[Any]) -> int:
    """Send the run-cache's entries of these stages that the remote has not; returns how many."""
    from dvc.stage.cache import _can_hash, _get_cache_hash, _get_stage_hash
    from dvc.stage.serialize import to_single_stage_lockfile

    odb = repo.cloud.get_remote_odb(remote.name, hash_name="md5-dos2unix")
    cache = Path(repo.cache.legacy.path)
    there = odb.fs.join(odb.path, RUNS)
    known = {odb.fs.name(path) for path in odb.fs.find(there)} if odb.fs.exists(there) else set()
    sent = 0
    for stage in stages:
        if not _can_hash(stage):
            continue
        key, value = _get_stage_hash(stage), _get_cache_hash(to_single_stage_lockfile(stage))
        source = cache / RUNS / key[:2] / key / value
        if value in known or not source.exists():
            continue
        target = odb.fs.join(there, key[:2], key, value)
        odb.fs.makedirs(odb.fs.parent(target), exist_ok=True)
        odb.fs.put_file(str(source), target)
        sent += 1
    return sent
