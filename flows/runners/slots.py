"""What limits how many stages run at once: `--jobs`, the processor's cores and the GPUs of the machine.

The cores decide only what runs beside what, never how many threads a stage has: those change the bits.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable

from flows.graph import Stage
from tasks.stage.errors import ConfigError

ANY = 1_000_000_000
"""Cores of a runner on other machines: its engine knows them, and `polm run` counts only the stages."""


class Slots:
    """Places for stages. Used by one thread."""

    def __init__(self, jobs: int, cores: int, gpus: list[str]) -> None:
        """Args: jobs: stages at a time; cores: threads at a time; gpus: names of the devices to hand out."""
        self._jobs, self._cores = jobs, cores
        self._gpus = len(gpus)
        self._free_gpus = list(gpus)
        self._threads: dict[str, int] = {}
        self.in_use: dict[str, tuple[str, ...]] = {}
        """Stage that runs, to the GPUs that are its own."""

    def check(self, stages: Iterable[Stage]) -> None:
        """Refuse a stage that would wait for ever. Raises ConfigError."""
        for stage in stages:
            if self._gpus and stage.meta.gpus > self._gpus:
                raise ConfigError(
                    f"dvc.yaml: stages.{stage.name}.meta.gpus is {stage.meta.gpus}, but only {self._gpus} are visible "
                    f"here; lower it (and num_processes in the recipe's launcher), or run on a larger machine"
                )

    def take(self, name: str, threads: int, gpus: int) -> tuple[str, ...] | None:
        """Take a place, cores and devices, or None when that must wait.

        A stage with more threads than there are cores runs alone. Without any GPU devices do not count; with one, the
        threads of a stage that has it do not: they mostly wait for it.
        """
        wanted = gpus if self._gpus else 0
        threads = 0 if wanted else threads
        used = sum(self._threads.values())
        crowded = used > 0 and threads > 0 and used + threads > self._cores
        if len(self.in_use) >= self._jobs or wanted > len(self._free_gpus) or crowded:
            return None
        self._threads[name] = threads
        self.in_use[name] = tuple(self._free_gpus[:wanted])
        del self._free_gpus[:wanted]
        return self.in_use[name]

    def give_back(self, name: str) -> None:
        """Free the place and the devices of a stage that ended."""
        self._free_gpus += self.in_use.pop(name)
        del self._threads[name]


def cores() -> int:
    """Count the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Name the GPUs that may be used: `CUDA_VISIBLE_DEVICES`, else what the driver lists; none without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listing = subprocess.run(query, capture_output=True, text=True, check=False)
    return listing.stdout.split() if listing.returncode == 0 else []
