"""Hands a stage to the runner that the runners' file places it on."""

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.graph import Stage
from flows.runners import code, local, settings
from flows.runners.local import Job
from flows.runners.settings import LOCAL, Kubernetes, Ray, Runners, Slurm


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


def place(path: Path | None, stages: list[Stage]) -> Placement:
    """Read the runners' file and find out where stages go.

    Args:
        path: the file; None: every stage runs here.
        stages: the recipe's.

    Raises:
        ConfigError: the file is wrong, or stages leave this machine and DVC has no remote for their inputs.
    """
    if path is None:
        return Placement()
    runners = settings.read(path)
    if any(runners.of(stage) != LOCAL for stage in stages):
        code.default_remote()
    return Placement(runners, settings.unused(path, runners, stages))
