"""Fetch what somebody else has computed: from DVC's remote into the cache, and from there to where it belongs.

A stage whose command, code, settings and inputs are those of `dvc.lock`, or of an entry of the run-cache, needs not
run. DVC knows that for one stage at a time, once the inputs are there; so this goes down the graph, and fetches all
that has become known at once.
"""

import copy
import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.graph import Graph
from flows.sharing import origin
from flows.sharing import remote as remotes
from flows.sharing.remote import Remote
from tasks.stage import artifact
from tasks.stage.errors import PolmError

log = logging.getLogger("polm")
RUNS = "runs"
"""Folder of the run-cache, in the remote as in the cache."""


@dataclass
class Restored:
    """What a pull put back."""

    stages: list[str] = field(default_factory=list)
    files: int = 0
    """Files that came from the remote; the others were in the cache."""
    bytes: int = 0
    seconds: float = 0.0


class Puller:
    """The remote's results for the stages of one graph. `fetch` may be called from several threads."""

    def __init__(self, graph: Graph, remote: Remote) -> None:
        """Args: graph: the pipeline; remote: what to fetch from, which has answered."""
        self.remote = remote
        self._graph = graph
        self._repo = graph.repo
        self._lock = threading.Lock()

    def entries(self) -> int:
        """Fetch the entries of the run-cache that are not here; returns how many.

        Their names are hashes of what is in them, so one that is here is never another one.

        Raises:
            PolmError: the remote fails.
        """
        cache = Path(self._repo.cache.legacy.path)
        with remotes.troubles(self.remote), remotes.quiet():
            odb = self._repo.cloud.get_remote_odb(self.remote.name, hash_name="md5-dos2unix")
            there = odb.fs.join(odb.path, RUNS)
            if not odb.fs.exists(there):
                return 0
            relative = {path: odb.fs.relpath(path, odb.path) for path in odb.fs.find(there)}
            missing = {path: cache / name for path, name in relative.items() if not (cache / name).exists()}
            if not missing:
                return 0
            scratch = artifact.STATE / "tmp" / "runs"
            scratch.mkdir(parents=True, exist_ok=True)
            temporary = {path: scratch / target.name for path, target in missing.items()}
            odb.fs.get(list(temporary), [str(path) for path in temporary.values()])
            for path, target in missing.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary[path].replace(target)
        return len(missing)

    def restore(self, names: list[str], settled: Collection[str], forced: Collection[str]) -> Restored:
        """Put back every stage's output that is known and can be had, as far down the graph as that goes.

        Args:
            names: stages that are wanted, in running order.
            settled: those of them that are up to date.
            forced: those that are to run in any case.

        Raises:
            PolmError: the remote fails.
        """
        start = time.perf_counter()
        restored = Restored()
        done, tried = set(settled), set(forced)
        with remotes.troubles(self.remote), remotes.quiet(), self._repo.lock:
            while True:
                ready = [
                    name for name in names if name not in done | tried and self._graph.stages[name].upstreams <= done
                ]
                unchanged = {name for name in ready if self._graph.unchanged(name)}
                tried |= set(ready)
                done |= unchanged
                found = {name: entry for name in ready if name not in unchanged and (entry := self._known(name))}
                if not found and not unchanged:
                    return self._ended(restored, start)
                self._objects([entry for _, entry in found.values()], restored)
                for name, (stage, entry) in found.items():
                    if entry.outs_cached() and origin.fits(stage, entry, self._repo):
                        _put_back(stage, entry)
                        done.add(name)
                        restored.stages.append(name)

    def fetch(self, name: str) -> bool:
        """Fetch a stage's output into the cache, where `dvc repro` finds it; all that it waits for is there.

        A remote that fails holds nobody up: the stage then runs, after a warning.

        Returns:
            Whether the output is in the cache now, and was not before.
        """
        restored = Restored()
        with self._lock:
            try:
                with remotes.troubles(self.remote), remotes.quiet():
                    known = self._known(name)
                    if known is None:
                        return False
                    self._objects([known[1]], restored)
                    fits = bool(known[1].outs_cached()) and origin.fits(*known, self._repo)
                    return restored.files > 0 and fits
            except PolmError as e:
                log.warning("%s: not fetched, so it runs (%s)", name, e)
                return False

    def _known(self, name: str) -> tuple[Any, Any] | None:
        """Find what a stage's output has to be: by `dvc.lock` where that is of these inputs, else by the run-cache.

        Returns:
            A copy of DVC's stage with its inputs of now, and a stage with the known outputs; None where none are known.
        """
        from dvc.exceptions import DvcException
        from dvc.stage.cache import _can_hash

        stage = self._graph.dvc_stage(name)
        if stage.always_changed:
            return None
        locked = not stage.changed_stage() and not any(dep.status() for dep in stage.deps)
        if locked and all(out.hash_info for out in stage.outs):
            return stage, stage
        stage = copy.copy(stage)
        stage.deps, stage.outs = [copy.copy(dep) for dep in stage.deps], [copy.copy(out) for out in stage.outs]
        try:
            stage.save_deps()
        except DvcException:  # an input is missing: the stage itself says which
            return None
        cache = self._repo.stage_cache
        entry = cache._load(stage) if _can_hash(stage) else None
        return (stage, cache._create_stage(entry, wdir=stage.wdir)) if entry else None

    def _objects(self, stages: list[Any], restored: Restored) -> None:
        """Fetch the outputs of these stages into the cache, and count what came."""
        from dvc.exceptions import CollectCacheError

        def path(obj: Any) -> Path:
            return Path(self._repo.cache.local.oid_to_path(obj.value))

        wanted: set[Any] = set()
        listings = {out.hash_info for stage in stages for out in stage.outs if not path(out.hash_info).exists()}
        for stage in stages:
            try:
                wanted |= {obj for objs in stage.get_used_objs().values() for obj in objs}
            except CollectCacheError:  # the listing of a folder is in no place
                continue
        came = {listing for listing in listings if path(listing).exists()}
        missing = {obj for obj in wanted if not path(obj).exists()}
        if missing:
            came |= self._repo.cloud.pull(missing, remote=self.remote.name).transferred
        came -= {obj for obj in came if self._damaged(obj, path(obj))}
        restored.files += len(came)
        restored.bytes += sum(path(obj).stat().st_size for obj in came)

    def _damaged(self, obj: Any, path: Path) -> bool:
        """Compare a file that came with its name, which is its hash: DVC does not, and would keep it for good."""
        from dvc_data.hashfile.hash import file_md5

        found = file_md5(str(path), self._repo.cache.local.fs)
        if found == obj.value.removesuffix(".dir"):
            return False
        path.unlink()
        log.warning(
            "%s: object %s is damaged there: its content has the hash %s. The stages that need it run here; delete it "
            "there, and `polm run --push` from a copy that has it",
            self.remote, obj.value, found,
        )  # fmt: skip
        return True

    @staticmethod
    def _ended(restored: Restored, start: float) -> Restored:
        restored.seconds = time.perf_counter() - start
        return restored


def _put_back(stage: Any, entry: Any) -> None:
    """Do what `dvc repro` does for a stage whose outputs are in the cache: put them in place, and write `dvc.lock`."""
    if stage is entry:
        stage.checkout(force=True)
        return
    stage.remove_outs(ignore_remove=False, force=False)
    entry.checkout(force=True)
    stage.save()
    stage.dump(update_pipeline=False)
