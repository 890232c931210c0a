"""A stage's command in a process of its own, and the step at which to end it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import REPO
from tests.support.forking import Forked, Forking

METHODS = {"prune": "magnitude", "distill": "taught"}
"""Stage to the entry of its `methods:` that runs."""
Process = subprocess.Popen[str] | Forked


def start(stage: str, params: Path, inputs: list[str], events: Path, parent: Forking | None = None) -> Process:
    """Start the stage's command, as a fork of `parent` where there is one; `events` is the file of its progress."""
    method = ["--method", METHODS[stage]] if stage in METHODS else []
    words = [f"tasks.{stage}", str(params), *method, *inputs, "--out", f"artifacts/models/{stage}"]
    environment = os.environ | {"PYTHONPATH": str(REPO), "POLM_EVENTS": str(events)}
    if parent:
        return parent.start(words, environment, said=events.with_suffix(".stderr"))
    return subprocess.Popen([sys.executable, "-m", *words], env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: Process, events: Path, step: int, label: str | None = None) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        lines = events.read_text().splitlines() if events.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("}")]
        if any(event["done"] >= step and label in (None, event["label"]) for event in told):
            return
        time.sleep(0.01)
    raise AssertionError(f"the stage never reached step {step}")
