"""A toy project with the product's layout: real git, real DVC, real stages of a fraction of a second.

source ─┬─ left ── tail@x, tail@y
        └─ right (free)
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.forking import Forked, Forking

REPO = Path(__file__).parents[2]
POLM = [sys.executable, "-c", "from flows.cli import main; main()"]

STEP = '''
"""A stage that does as it is told by its params."""
import json, os, sys, time
from pathlib import Path
from typing import Any
from tasks.stage.config import StageConfig
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage

class Config(StageConfig):
    """What to do."""
    value: int
    sleep: float
    fail: str

def main(config: Config, run: Run{arguments}) -> None:
    """Do it."""
    with open("ran.txt", "a") as f:
        f.write(run.name + "\\n")
    Path(".polm/started-" + run.name).write_text(str(os.getpid()))
    for i in range(3):
        run.progress.update(i + 1, 3, "step", loss=1.0 / (i + 1))
        time.sleep(config.sleep / 3)
    if config.fail == "user":
        raise DataError("data.jsonl:7: no answer; add one")
    if config.fail == "once" and not Path(".polm/once").exists():
        Path(".polm/once").touch()
        raise ValueError("a bug")
    if config.fail == "bug":
        raise ValueError("a bug")
    if config.fail == "kill":
        os.kill(os.getpid(), 9)
    (run.out / "value.txt").write_text(str(config.value))

if __name__ == "__main__":
    stage(main, Config)
'''

CHECK = '''
"""The toy's check of a recipe: every `value` is a number."""
import sys
from pathlib import Path
for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
    if "value: oops" in path.read_text():
        print(f"{path}: 'value' is 'oops': expected a number", file=sys.stderr)
        sys.exit(2)
'''

DVC = """
vars:
  - params/recipe.yaml
stages:
  source:
    cmd: python -m tasks.source params/${recipe}/source.yaml --out artifacts/source
    params: [{'params/${recipe}/source.yaml': }]
    outs: [artifacts/source]
    meta: {timeout: 5, retries: 0}
  left:
    cmd: python -m tasks.step params/${recipe}/left.yaml --model artifacts/source --out artifacts/left
    params: [{'params/${recipe}/left.yaml': }]
    deps: [artifacts/source]
    outs: [artifacts/left]
    meta: {timeout: 5, retries: 1}
  right:
    cmd: python -m tasks.step params/${recipe}/right.yaml --model artifacts/source --out artifacts/right
    params: [{'params/${recipe}/right.yaml': }]
    deps: [artifacts/source]
    outs: [artifacts/right]
    meta: {timeout: 5, retries: 0, gpus: 1}
  tail:
    matrix:
      item: [x, y]
    cmd: python -m tasks.step params/${recipe}/tail.yaml --model artifacts/left --out artifacts/tail/${item.item}
    params: [{'params/${recipe}/tail.yaml': }]
    deps: [artifacts/left]
    outs: ['artifacts/tail/${item.item}']
"""

MEDIA = """
  media:
    foreach: ${media}
    do:
      cmd: python -m tasks.source params/${recipe}/source.yaml --out artifacts/media/${key}
      outs: ['artifacts/media/${key}']
  vlm:
    foreach: ${vlm}
    do:
      cmd: >-
        python -m tasks.step params/${recipe}/left.yaml
        --model artifacts/media/${item.data} --out artifacts/models/${key}
      deps: ['artifacts/media/${item.data}']
      outs: ['artifacts/models/${key}']
  evaluate_media:
    foreach: ${evaluate_media}
    do:
      cmd: >-
        python -m tasks.step params/${recipe}/right.yaml
        --model artifacts/models/${key} --out artifacts/metrics/${key}
      deps: ['artifacts/models/${key}', 'artifacts/media/${item}']
      outs: ['artifacts/metrics/${key}']
  all:
    cmd: python -m tasks.step params/${recipe}/tail.yaml --model artifacts/media/photos --out artifacts/all
    deps: [artifacts/media/photos, artifacts/models, artifacts/metrics]
    outs: [artifacts/all]
"""
"""Stages of two data sets, the models that are made from each, and one that looks at all of them."""
MEDIA_GRAPH = """
media: {photos: {}, spoken: {needs: MODULE}}
vlm: {seeing: {data: photos}, hearing: {data: spoken}}
evaluate_media: {seeing: photos, hearing: spoken}
"""


GRAPH = "recipe: {recipe}\nevaluate: [base]\nexport: []\nforms: []\n"
"""A graph without methods: the toy's stages stand in its `dvc.yaml`."""


class Toy:
    """The project's folder and what a test does to it."""

    def __init__(self, root: Path, forking: Forking | None = None, python: Path | None = None) -> None:
        self.root = root
        self.forking = forking
        """What `polm` forks from; None: it is a fresh process."""
        self.python = python
        """What a forked `polm` runs DVC by; None: this interpreter."""

    def set(self, stage: str, *, value: int | str = 1, sleep: float = 0, fail: str = "no", recipe: str = "toy") -> None:
        """Write a stage's params."""
        path = self.root / "params" / recipe / f"{stage}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "recipe.yaml").write_text(GRAPH.format(recipe=recipe))
        path.write_text(f"seed: 0\nthreads: 1\nvalue: {value}\nsleep: {sleep}\nfail: '{fail}'\n")

    def replace(self, old: str, new: str, file: str = "dvc.yaml") -> None:
        """Edit a file; fails when `old` is not in it."""
        path = self.root / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def add_media(self, module: str) -> None:
        """Add two data sets and what is made from them; one of them needs a Python module."""
        for file, text in (("dvc.yaml", MEDIA), ("params/toy/recipe.yaml", MEDIA_GRAPH.replace("MODULE", module))):
            path = self.root / file
            path.write_text(path.read_text().rstrip("\n") + text)

    def ran(self) -> list[str]:
        """Names of the stages that really ran since the last call, in order."""
        path = self.root / "ran.txt"
        names = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return names

    def environment(self) -> dict[str, str]:
        """What a command in the project needs."""
        private = {"DVC_SITE_CACHE_DIR": str(self.root / ".polm/dvc"), "PREFECT_HOME": str(self.root / ".polm/prefect")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        if self.python:
            private["POLM_WARM"] = "0"  # that forks already
        return os.environ | {"PYTHONPATH": f"{self.root}{os.pathsep}{REPO}", "PATH": path, "COLUMNS": "200"} | private

    def start(self, *arguments: str) -> "subprocess.Popen[str] | Forked":
        """Start `polm` with these arguments."""
        if self.forking:
            return self.forking.start(
                ["flows.cli", *arguments], self.environment(), folder=self.root, python=self.python
            )
        return subprocess.Popen(
            [*POLM, *arguments],
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def polm(self, *arguments: str) -> tuple[int | None, str]:
        """Run `polm`; returns its exit code and all that it said."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=500)
        return process.returncode, said


def make(root: Path) -> Toy:
    """Create the project in an empty folder."""
    shutil.copytree(REPO / "tasks/stage", root / "tasks/stage", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tasks/check").mkdir()
    for package in ("tasks", "tasks/check"):
        (root / package / "__init__.py").touch()
    (root / "tasks/check/recipe.py").write_text(CHECK)
    (root / "tasks/source.py").write_text(STEP.replace("{arguments}", ""))
    (root / "tasks/step.py").write_text(STEP.replace("{arguments}", ", *, model: Path"))
    (root / "dvc.yaml").write_text(DVC)
    (root / ".gitignore").write_text(".polm/\n/artifacts/\n/ran.txt\n__pycache__/\n")
    toy = Toy(root)
    for stage in ("source", "left", "right", "tail"):
        toy.set(stage)
    (root / "params/recipe.yaml").symlink_to("toy/recipe.yaml")
    # What `git init` and `dvc init` leave, as far as they are needed; the commands take seconds.
    for name in (".git/objects", ".git/refs", ".dvc"):
        (root / name).mkdir(parents=True)
    (root / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    return toy


def survivors(toy: Toy) -> list[str]:
    """Command lines of the living processes that work in the project, this one excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            here = process.pid != os.getpid() and process.cwd() == str(toy.root)
            if here and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
