"""A stage's command in a process of its own, and the step at which to end it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import REPO

NAMES = {"prune": "pruned_magnitude", "distill": "taught"}
"""Last part of `--out`, where it says which method runs."""


def start(stage: str, params: Path, inputs: list[str], events: Path) -> subprocess.Popen[str]:
    out = f"artifacts/models/{NAMES.get(stage, stage)}"
    command = [sys.executable, "-m", f"tasks.{stage}", str(params), *inputs, "--out", out]
    environment = os.environ | {"PYTHONPATH": str(REPO), "POLM_EVENTS": str(events)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], events: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        lines = events.read_text().splitlines() if events.exists() else []
        if any(json.loads(line)["done"] >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.01)
    raise AssertionError(f"the stage never reached step {step}")
