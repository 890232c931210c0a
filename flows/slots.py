"""What limits how many stages run at once: `--jobs`, and the GPUs of the machine."""

import os
import shutil
import subprocess
from collections.abc import Iterable

from flows.graph import Stage
from tasks._errors import ConfigError


class Slots:
    """Places for stages. Used by one thread."""

    def __init__(self, jobs: int, gpus: list[str]) -> None:
        """Args: jobs: stages at a time; gpus: names of the devices that may be handed out."""
        self._jobs, self._all, self._free = jobs, len(gpus), list(gpus)
        self.taken: dict[str, tuple[str, ...]] = {}
        """Stage that runs to the GPUs that are its own."""

    def check(self, stages: Iterable[Stage]) -> None:
        """Refuse a stage that would wait for ever. Raises ConfigError."""
        for stage in stages:
            if self._all and stage.meta.gpus > self._all:
                raise ConfigError(
                    f"dvc.yaml: stages.{stage.name}.meta.gpus is {stage.meta.gpus}, but only {self._all} are visible "
                    f"here; lower it (and num_processes in the recipe's launcher), or run on a larger machine"
                )

    def take(self, name: str, gpus: int) -> tuple[str, ...] | None:
        """Take a place and `gpus` devices, or None when that must wait. Without any GPU only the place counts."""
        wanted = gpus if self._all else 0
        if len(self.taken) >= self._jobs or wanted > len(self._free):
            return None
        self.taken[name], self._free = tuple(self._free[:wanted]), self._free[wanted:]
        return self.taken[name]

    def give_back(self, name: str) -> None:
        """Free the place and the devices of a stage that ended."""
        self._free += self.taken.pop(name)


def visible_gpus() -> list[str]:
    """Names of the GPUs that may be used: `CUDA_VISIBLE_DEVICES`, else what the driver lists; empty without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.split() if found.returncode == 0 else []
