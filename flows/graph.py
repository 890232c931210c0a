"""DVC's graph, read in process: which stages there are, what they wait for, which of them have to run.

DVC decides what is unchanged, by the same rules as `dvc repro`, but without the second that each `dvc` process takes to
start. Nothing here writes: running a stage is `flows.runners.local`'s.
"""

import fnmatch
import hashlib
import json
import logging
import sqlite3
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.stage import config, dag, needs
from tasks.stage.errors import ArtifactError, ConfigError, PolmError, remedy

KINDS = {"models", "labels", "media", "chunks", "indexes", "vectors"}
"""Folders below `artifacts` whose members a recipe's graph names."""


class Meta(config.Strict):
    """What `meta:` of a stage in `dvc.yaml` may say. An absent key asks for nothing."""

    timeout: float | None = None
    """Minutes until the stage's processes are ended; without it there is no limit."""
    retries: int = 0
    """How often a failed stage is tried again."""
    gpus: int = 0
    """GPUs that the stage needs for itself. Ignored on a machine that has none."""
    origins: bool = False
    """Whether the stage also reads what its inputs were made from."""


@dataclass(frozen=True)
class Stage:
    """One node of the graph, a matrix already expanded."""

    name: str
    """Name for DVC, e.g. `sft` or `evaluate@dpo`."""
    out: Path
    """Its artifact, relative to the root, e.g. `artifacts/models/sft`."""
    upstreams: frozenset[str]
    """Stages whose outputs are its inputs for DVC."""
    meta: Meta
    threads: int
    """Threads that its recipe file fixes; 1 where it says nothing."""


class Graph:
    """The pipeline of the working directory."""

    def __init__(self) -> None:
        """Read `dvc.yaml` and `dvc.lock`.

        Raises:
            ConfigError: `dvc.yaml` is wrong.
            PolmError: this is no DVC repository, or `dvc.lock` is broken.
        """
        self._lock = threading.Lock()
        recipe = dag.active()  # DVC passes over a misspelt key, and says of a missing one that no variable was found
        self.repo, self._dvc = _load()
        """DVC's repository (`dvc.repo.Repo`), whose lock is waited for."""
        edges = {name: {up.addressing for up in graph_up} for name, (_, graph_up) in self._dvc.items()}
        order = _topological(edges)
        stages = {name: _stage(name, self._dvc[name][0], frozenset(edges[name])) for name in order}
        self.outs = [stage.out for stage in stages.values()]
        """Every artifact of the recipe, those that are not made here too."""
        self.notices = list(needs.notices(recipe))
        """What of the recipe is left out here because a module is missing, in a line for each set of modules."""
        gone = {Path("artifacts", folder) for folder in needs.folders(recipe)}
        self._left_out = {name: stage for name, stage in stages.items() if stage.out in gone}
        self.stages = {
            name: replace(stage, upstreams=stage.upstreams - self._left_out.keys())
            for name, stage in stages.items()
            if name not in self._left_out
        }
        """Every stage by name, in an order in which it can run; without those that are left out here."""

    def closure(self, targets: list[str]) -> list[str]:
        """The targets and all they need, in running order; everything when there are no targets.

        Raises:
            ConfigError: a target is neither a model, nor a method, nor a stage.
        """
        wanted = {name for target in targets for name in self.resolve(target)} or set(self.stages)
        for name in reversed(self.stages):
            if name in wanted:
                wanted |= self.stages[name].upstreams
        return [name for name in self.stages if name in wanted]

    def resolve(self, target: str) -> list[str]:
        """The stages that a name means.

        Args:
            target: a stage (`evaluate@cot`); a model (`cot`) or a set of labels, for the stage that makes it; a method,
                or a stage of several models (`prune`, `evaluate`), for all of its stages; or a pattern of stages
                (`evaluate@merged_*`). What is named first here is taken first.

        Raises:
            ConfigError: nothing of that name, or nothing that is made here.
        """
        if target in self.stages:
            return [target]
        if target in self._left_out or target in {stage.out.name for stage in self._left_out.values()}:
            raise ConfigError(f"'{target}' is not made here: {'; '.join(self.notices)}")
        kinds = {name: {folder.name for folder in stage.out.parents} for name, stage in self.stages.items()}
        models = {stage.out.name: name for name, stage in self.stages.items() if kinds[name] & KINDS}
        if target in models:
            return [models[target]]
        found = [name for name in self.stages if name.split("@")[0] == target or fnmatch.fnmatchcase(name, target)]
        if not found:
            names = {*self.stages, *models, *(name.split("@")[0] for name in self.stages)}
            raise ConfigError(f"no model, method or stage '{target}'{config.suggest(target, names)}")
        return found

    def unchanged(self, name: str) -> bool:
        """Whether code, params, inputs and outputs are those of the last run, as the files are now.

        Says nothing about upstreams that have not run yet.
        """
        stage = self._dvc[name][0]
        with self._lock:
            if stage.always_changed or stage.changed_stage():
                return False
            return not any(dep.status() for dep in stage.deps) and not any(out.status() for out in stage.outs)

    def dvc_stage(self, name: str) -> Any:
        """DVC's own object for a stage (`dvc.stage.PipelineStage`), as `dvc.lock` was when this graph was read."""
        return self._dvc[name][0]

    def settled(self, names: list[str], force: set[str]) -> set[str]:
        """Those of `names` (in running order) that need not run: unchanged, and so is all that they wait for."""
        settled: set[str] = set()
        for name in names:
            if name not in force and self.stages[name].upstreams <= settled and self.unchanged(name):
                settled.add(name)
        return settled

    def version(self, name: str) -> str:
        """Hash of the stage's command, code, params and inputs as they are now, 16 hex digits.

        Raises:
            ArtifactError: an input does not exist.
        """
        from dvc.exceptions import DvcException

        stage = self._dvc[name][0]
        try:
            with self._lock:
                inputs = {str(dep): dep.get_hash().value for dep in stage.deps}
        except (DvcException, FileNotFoundError) as e:
            raise ArtifactError(f"stage {name}: an input cannot be read ({e})") from e
        text = json.dumps({"cmd": stage.cmd, "inputs": inputs}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def reads(self, name: str) -> frozenset[str]:
        """The stages whose outputs have to be there when this one runs."""
        stage = self.stages[name]
        return frozenset(self.closure([name])) - {name} if stage.meta.origins else stage.upstreams

    def depth(self, name: str) -> int:
        """Stages on the longest chain that waits for this one: what to start first when there is a choice."""
        below = [self.depth(other) for other, stage in self.stages.items() if name in stage.upstreams]
        return 1 + max(below, default=0)


def _load() -> tuple[Any, dict[str, tuple[Any, list[Any]]]]:
    """Read DVC's repository, and name to DVC's stage and the stages it reads from."""
    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # one step lower would also let its progress bars through
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo(_wait_for_lock=True)
        graph = repo.index.graph
    except NotDvcRepoError:
        raise PolmError(
            "no .dvc folder here; restore it with `git checkout .dvc`, or create it with `dvc init`"
        ) from None
    except DvcException as e:
        if "dvc.lock" in str(e):
            raise PolmError(
                f"dvc.lock cannot be read ({_first_line(e)}); restore it with `git checkout dvc.lock`, or delete it: "
                f"what is in the cache is then found again without running"
            ) from None
        config.read_yaml(Path("dvc.yaml"))  # says the line, where DVC says only that there is one
        raise ConfigError(f"dvc.yaml: {e}{f' ({_first_line(e.__cause__)})' if e.__cause__ else ''}") from None
    except (OSError, sqlite3.Error) as e:
        raise PolmError(f"DVC cannot work here: {remedy(e) or f'{e}; `polm doctor` looks at its parts'}") from e
    stages = {stage.addressing: (stage, list(graph.successors(stage))) for stage in graph if stage.cmd}
    if not stages:
        raise ConfigError("dvc.yaml: no stages; restore it with `git checkout dvc.yaml`")
    return repo, stages


def _first_line(e: BaseException) -> str:
    return str(e).strip().splitlines()[0]


def _topological(edges: dict[str, set[str]]) -> list[str]:
    """Order in which every stage follows its upstreams; otherwise as written in `dvc.yaml`."""
    order: list[str] = []
    while len(order) < len(edges):
        order += [name for name, ups in edges.items() if name not in order and ups & edges.keys() <= set(order)][:1]
    return order


def _stage(name: str, stage: Any, upstreams: frozenset[str]) -> Stage:
    if len(stage.outs) != 1:
        raise ConfigError(f"dvc.yaml: stage '{name}' has {len(stage.outs)} outs; a stage writes exactly one folder")
    meta = config.parse(Path(f"dvc.yaml: {name}.meta"), stage.meta or {}, Meta)
    return Stage(name, Path(stage.outs[0].def_path), upstreams, meta, _threads(stage))


def _threads(stage: Any) -> int:
    """Return the threads of a stage, from its recipe file. The recipe's check says what is wrong with the file."""
    paths = {Path(dep.def_path) for dep in stage.deps if dep.def_path}
    try:
        values = [config.read_yaml(path).get("threads") for path in sorted(paths) if path.suffix == ".yaml"]
    except ConfigError:
        return 1
    return max((n for n in values if isinstance(n, int)), default=1)
