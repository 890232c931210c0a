"""Hands a stage to the runner that the runners' file places it on."""

import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.graph import Graph, Stage
from flows.runners import code, local, settings
from flows.runners.local import Job
from flows.runners.settings import LOCAL, Kubernetes, Ray, Runners, Slurm
from tasks.stage.errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """Where the stages of a run go."""

    runners: Runners | None = None
    """The runners' file; None: every stage runs here."""
    notices: list[str] = field(default_factory=list)
    """What of the file has no effect on this recipe."""

    def of(self, stage: Stage) -> str:
        """Return the name of a stage's runner."""
        return self.runners.of(stage) if self.runners else LOCAL

    def limits(self) -> dict[str, int]:
        """Return how many stages each runner on other machines may have at a time."""
        return {name: runner.jobs for name, runner in self.runners.runners.items()} if self.runners else {}

    def run(self, name: str, job: Job, stopping: threading.Event) -> str:
        """Run a stage on the runner of that name; returns and raises what `flows.runners.local.run` does."""
        if self.runners is None or name == LOCAL:
            return local.run(job, stopping)
        runner = self.runners.runners[name]
        job = job if runner.gpus else replace(job, gpu_count=0)
        if isinstance(runner, Slurm):
            from flows.runners import slurm_jobs

            return slurm_jobs.run(job, self.runners, runner, stopping)
        if isinstance(runner, Ray):
            from flows.runners import ray_jobs

            return ray_jobs.run(job, self.runners, runner, stopping)
        assert isinstance(runner, Kubernetes)
        from flows.runners import kubernetes_jobs

        return kubernetes_jobs.run(job, self.runners, runner, stopping)


def place(path: Path | None, graph: Graph, names: Collection[str]) -> Placement:
    """Read the runners' file and find out where stages go.

    Args:
        path: the file; None: every stage runs here.
        graph: the recipe's.
        names: stages that are wanted.

    Raises:
        ConfigError: the file is wrong, or stages leave this machine and DVC has no remote for their inputs, an input
            does not travel, or a result would not come back.
    """
    if path is None:
        return Placement()
    runners = settings.read(path)
    stages = list(graph.stages.values())
    if any(runners.of(stage) != LOCAL for stage in stages):
        code.default_remote()
    travelling = [name for name in names if runners.of(graph.stages[name]) != LOCAL]
    _check_results(path, graph, travelling)
    _check_inputs(path, graph, travelling)
    return Placement(runners, settings.unused(path, runners, stages))


def _check_results(path: Path, graph: Graph, names: Collection[str]) -> None:
    """Refuse a stage of which DVC keeps no result: it would run there and not come back. Raises ConfigError."""
    for name in names:
        stage = graph.dvc_stage(name)
        if not stage.deps or stage.always_changed or any(out.persist or not out.use_cache for out in stage.outs):
            raise ConfigError(
                f"{path}: stage {name} is placed on another machine, and DVC keeps no result of it that could come "
                f"back (it has `always_changed:`, `cache: false` or `persist:` in dvc.yaml, or reads nothing); begin "
                f"the rules with `{{stages: {name}, runner: {LOCAL}}}`"
            )


def _check_inputs(path: Path, graph: Graph, names: Collection[str]) -> None:
    """Refuse a stage that reads a file which neither git nor DVC takes along. Raises ConfigError."""
    made = {Path(out.def_path) for out in graph.repo.index.outs if out.def_path}
    readers: dict[str, list[str]] = {}
    for name in names:
        for dep in graph.dvc_stage(name).deps:
            if dep.def_path and not made & {Path(dep.def_path), *Path(dep.def_path).parents}:
                readers.setdefault(dep.def_path, []).append(name)
    for file in code.ignored(sorted(readers)) if readers else []:
        if made & {file, *file.parents} or graph.repo.dvcignore.is_ignored_file(str(file.absolute())):
            continue
        reader = next(stages[0] for dep, stages in readers.items() if {file, *file.parents} & {Path(dep)})
        raise ConfigError(
            f"{path}: {file}: stage {reader}, which is placed on another machine, reads it, but git ignores it and DVC "
            f"does not know it; `dvc add {file}`, or begin the rules with `{{stages: {reader}, runner: {LOCAL}}}`"
        )
