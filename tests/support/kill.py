"""A stage's command in a process of its own, and the step at which to end it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import REPO

METHODS = {"prune": "magnitude", "distill": "taught"}
"""Stage to the entry of its `methods:` that runs."""


def start(stage: str, params: Path, inputs: list[str], events: Path) -> subprocess.Popen[str]:
    method = ["--method", METHODS[stage]] if stage in METHODS else []
    out = ["--out", f"artifacts/models/{stage}"]
    command = [sys.executable, "-m", f"tasks.{stage}", str(params), *method, *inputs, *out]
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
