"""A stage in several processes, as its command starts them; all of them, the launcher too, fork from one parent."""

import os
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from tests.conftest import REPO
from tests.support.forking import Forked, Forking

METHODS = {"distill": "taught"}
"""Stage to the entry of its `methods:` that runs."""


class Launching:
    """A parent to fork from, and the launchers of two processes on a CPU, in a folder."""

    def __init__(self, forking: Forking, folder: Path) -> None:
        self._forking = forking
        self._python = self._forking.write_python(folder, forks=("tasks.", "accelerate."))
        configured = f"{self._python} -m accelerate.commands.launch --config_file {REPO / 'infra/accelerate'}"
        self.launchers = {
            "one": None,
            "ddp": f"{configured}/cpu.yaml -m",
            "fsdp2": f"{configured}/fsdp2.yaml -m",
        }
        self.two_machines = f"{configured}/fsdp2_two_machines.yaml --num_processes 2 --main_process_ip 127.0.0.1"

    def start(
        self,
        stage: str,
        values: dict[str, Any],
        inputs: dict[str, Path],
        folder: Path,
        name: str,
        entry: str | None = None,
    ) -> Forked:
        """Start the stage with these settings in a folder, for `artifacts/<name>`, with `<name>.events` and `.log`.

        `entry` is that of `methods:` which runs, where `METHODS` does not say.
        """
        (folder / "params").mkdir(exist_ok=True)
        YAML().dump(values, folder / "params" / f"{name}.yaml")
        entry = entry or METHODS.get(stage)
        method = ["--method", entry] if entry else []
        words = [f"tasks.{stage}", f"params/{name}.yaml", *method, "--out", f"artifacts/{name}"]
        for flag, path in inputs.items():
            words += [f"--{flag}", str(path)]
        environment = os.environ | {
            "PYTHONPATH": str(REPO),
            "PYTHON_EXEC": str(self._python),  # of torchrun, which accelerate rests on
            "POLM_EVENTS": str(folder / f"{name}.events"),
        }
        return self._forking.start(words, environment, folder / f"{name}.log", folder, self._python)

    def run(
        self,
        stage: str,
        values: dict[str, Any],
        inputs: dict[str, Path],
        folder: Path,
        name: str,
        entry: str | None = None,
    ) -> Path:
        """Run it to a good end; returns the artifact."""
        code = self.start(stage, values, inputs, folder, name, entry).wait()
        assert code == 0, (folder / f"{name}.log").read_text()
        return folder / "artifacts" / name


def ranks(events: Path) -> dict[int, psutil.Process]:
    """Find the processes of the stage that reports to this file, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("POLM_EVENTS") == str(events) and "RANK" in environment:
            found[int(environment["RANK"])] = process
    return found
