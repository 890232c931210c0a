"""A recipe that is a few steps of everything, from rows to two models that can be served, and its commands."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import REPO
from tests.support import working_copy
from tests.support.small_recipe import change, write

NAME = "brief"
GRAPH: dict[str, Any] = {
    "recipe": NAME,
    "sft": {"sft": {"from": "base", "claim": "sums.exact_match"}},
    "dpo": {"dpo": {"from": "sft"}},
    "evaluate": ["base", "sft", "dpo"],
    "export": ["sft", "dpo"],
    "forms": ["int8"],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {
        "source/scratch/steps": 4,
        "source/scratch/model/hidden_size": 64,
        "source/scratch/model/intermediate_size": 128,
        "source/scratch/model/num_hidden_layers": 2,
        "source/scratch/model/num_attention_heads": 2,
        "source/scratch/model/num_key_value_heads": 2,
    },
    "sft": {"trainer/max_steps": 4},
    "dpo": {"trainer/max_steps": 3},
    "export_onnx": {
        "parity/prompts": 4,
        "parity/max_new_tokens": 8,
        "speed/new_tokens": 8,
        "speed/repeats": 1,
    },
    "data": {
        "sources/direct/options/count": 3000,
        "sources/worked/options/count": 500,
        "sources/conversations/options/count": 500,
        "sources/preferences/options/count": 700,
        "sources/questions/options/count": 300,
        "sources/sums/options/count": 600,
        "sources/long_sums/options/count": 600,
        "sources/long_questions/options/count": 300,
        "sources/rationales/options/count": 300,
        "sources/feedback/options/count": 300,
        "sources/judgements/options/count": 300,
        "sources/instructions/options/count": 300,
        "sources/instructions_test/options/count": 600,
    },
}
GATES: dict[str, Any] = {
    "form": "int8",
    "served_loss": 1.0,
    "quality": {"metric": "sums.exact_match", "gain": -1.0},
    "regression": {"*": None},
    "bootstrap": {"resamples": 500, "confidence": 0.95, "seed": 0},
    "allow_changed_evaluation": False,
    "allow_dirty": True,
}
"""What a model that has learned nothing passes too: the models of this recipe are only to be moved about."""


def make(home: Path) -> None:
    """Make a working copy with the recipe, committed."""
    working_copy.make(home)
    shutil.copyfile(REPO / "dvc.yaml", home / "dvc.yaml")
    recipe, tiny = home / "params" / NAME, REPO / "params/tiny"
    for name in (*SETTINGS, "evaluate", "report"):
        (recipe / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tiny / f"{name}.yaml", recipe / f"{name}.yaml")
    for name in ("eval", "forms"):
        shutil.copytree(tiny / name, recipe / name)
    for name, values in SETTINGS.items():
        for key, value in values.items():
            change(recipe / f"{name}.yaml", key, value)
    change(recipe / "evaluate.yaml", "tasks", [{"file": "eval/sums.yaml", "limit": 48, "group_by": []}])
    write(recipe / "recipe.yaml", GRAPH)
    (home / "params/recipe.yaml").symlink_to(f"{NAME}/recipe.yaml")
    shutil.copyfile(REPO / "params/report.yaml", home / "params/report.yaml")
    write(home / "mlflow/gates.yaml", {NAME: GATES})
    for words in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "a recipe"]):
        subprocess.run(["git", *words], cwd=home, check=True)


def environment(home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command in the working copy: with these variables, and no others of any service."""
    outer = ("PREFECT_", "MLFLOW_", "DVC_", "AWS_", "POLM_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(outer)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = {"PYTHONPATH": str(home), "PATH": path, "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return kept | ours | {"DVC_SITE_CACHE_DIR": str(home / ".polm/dvc")} | dict(variables)


def polm(home: Path, variables: Mapping[str, str], *words: str) -> str:
    """Run a command of polm; returns what it says, and fails when it does."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", *words]
    done = subprocess.run(
        command, cwd=home, env=environment(home, variables), capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def serving(home: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Run `polm serve` on a free port; yields its address up to `/v1`."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", "serve", "--port", "0", "--threads", "1"]
    said = home / "serve.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment(home, variables), stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while not (match := re.search(r"http://\S+/v1", said.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        yield match[0]
    finally:
        process.terminate()
        assert process.wait(60) == 0, said.read_text()
