"""Seconds until a stage begins its work: its imports, stage by stage, and its start under `polm run`.

    python -m bench.startup                       # every stage below
    python -m bench.startup sft evaluate --of 3   # these; the best of three starts each

The first table imports what a stage imports, in a fresh process: its own module (what `python -m tasks.sft --help`
reads), then the libraries that it needs before its first step. The second starts a DVC stage that imports the libraries
of `sft` and does nothing, by the runner of `polm run`, without and with warm parents: seconds until the libraries are
there, and until DVC has ended. Processor seconds are those of the stage's own process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from flows.graph import Meta, Stage
from flows.runners import local, warm

ROOT = Path(__file__).parent.parent
TRAINERS = ["transformers.models.llama.modeling_llama", "datasets", "peft"]
LIBRARIES = {
    "fingerprint": [],
    "data": [],
    "base": ["tasks.base_models.pretraining", "transformers.models.llama.modeling_llama"],
    "sft": [*TRAINERS, "trl.trainer.sft_trainer"],
    "reward": [*TRAINERS, "trl.trainer.reward_trainer"],
    "dpo": [*TRAINERS, "trl.trainer.dpo_trainer"],
    "kto": [*TRAINERS, "trl.trainer.kto_trainer"],
    "grpo": [*TRAINERS, "tasks.rl.grpo"],
    "ppo": [*TRAINERS, "tasks.rl.ppo"],
    "distill": [*TRAINERS, "tasks.compression.distillation"],
    "evaluate": ["tasks.evaluation.harness", "transformers.models.llama.modeling_llama"],
    "rag_chunks": [],
    "rag_index": [],
    "report": [],
}
"""Stage to the modules that it imports when it runs, after its own."""
IMPORTS = """
import importlib, json, sys, time
from tasks.stage.lifecycle import fix_environment
began, seen = time.perf_counter(), []
for names in json.loads(sys.argv[1]):
    for name in names:
        importlib.import_module(name)
        if len(seen) == 0:
            fix_environment(1)
    seen += [time.perf_counter() - began, time.process_time(), len(sys.modules)]
print(json.dumps(seen))
"""
MODULE = """
import importlib, json, sys, time
from pathlib import Path
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
Path("began.json").write_text(json.dumps({"wall": time.time(), "processor": time.process_time()}))
"""
PIPELINE = {"stages": {"start": {"cmd": "", "deps": ["tasks/start.py"], "always_changed": True}}}


def imported(stage: str, times: int) -> list[float]:
    """Import a stage's modules in fresh processes.

    Returns:
        Wall seconds, processor seconds and modules: of its own module, then with its libraries; the least of each.
    """
    words = [sys.executable, "-c", IMPORTS, json.dumps([[f"tasks.{stage}"], LIBRARIES[stage]])]
    runs = [
        json.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        for _ in range(times)
    ]
    return [min(values) for values in zip(*runs, strict=True)]


def started(folder: Path, python: str) -> tuple[float, float, float]:
    """Start the stage that does nothing.

    Returns:
        Wall seconds until its libraries are there, processor seconds until then, and wall seconds until DVC has ended.
    """
    job = local.Job("start", folder / "log", folder / "events", 600, True, (), lambda: None, lambda _: None, python)
    before = time.time()
    local.run(job, threading.Event())
    ended = time.time()
    began: dict[str, Any] = json.loads(Path("began.json").read_text())
    return began["wall"] - before, began["processor"], ended - before


def compare(times: int) -> dict[str, list[float]]:
    """Start it without and with warm parents in a project of its own; returns the least of each figure."""
    os.environ["DVC_NO_ANALYTICS"] = "1"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="polm-startup-") as root:
        os.chdir(root)
        Path("tasks").mkdir()
        Path("tasks/__init__.py").touch()
        Path("tasks/start.py").write_text(MODULE, encoding="utf-8")
        PIPELINE["stages"]["start"]["cmd"] = f"python -m tasks.start '{json.dumps(LIBRARIES['sft'])}'"
        Path("dvc.yaml").write_text(json.dumps(PIPELINE), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], check=True)
        folder = Path(root, "run")
        folder.mkdir()
        found = {"without": [started(folder, sys.executable) for _ in range(times)]}
        stages = [Stage("start", Path("out"), frozenset(), Meta(), 1)] * warm.WORTH
        before = time.perf_counter()
        with warm.parents(folder, stages) as python:
            while not all((folder / "warm" / name).exists() for name in ("dvc", "stages")):
                time.sleep(0.05)
            print(f"the parents are ready after {time.perf_counter() - before:.1f} s\n")
            found["with"] = [started(folder, python) for _ in range(times)]
        os.chdir(ROOT)
    return {name: [min(values) for values in zip(*runs, strict=True)] for name, runs in found.items()}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup")
    parser.add_argument("stages", nargs="*", default=list(LIBRARIES), help=", ".join(LIBRARIES))
    parser.add_argument("--of", type=int, default=5, help="starts of each, of which the best counts")
    arguments = parser.parse_args()
    print("| stage | own: s | processor s | modules | with its libraries: s | processor s | modules |")
    print("|---|---|---|---|---|---|---|")
    for stage in arguments.stages:
        own, cpu, count, wall, all_cpu, all_count = imported(stage, arguments.of)
        print(f"| `{stage}` | {own:.2f} | {cpu:.2f} | {count:.0f} | {wall:.2f} | {all_cpu:.2f} | {all_count:.0f} |")
    print()
    table = compare(arguments.of)
    print("| under `polm run`, parents | s to its libraries | processor s | s to the end of DVC |")
    print("|---|---|---|---|")
    for name, (until, cpu, end) in table.items():
        print(f"| {name} | {until:.2f} | {cpu:.2f} | {end:.2f} |")


if __name__ == "__main__":
    main()
