"""A folder becomes a working copy in which the commands run as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO

NEEDED = (".dvc", ".gitignore", "mlflow/", "infra/accelerate")
"""Beginnings of the names of tracked files, beside the code and the recipe, that the commands read."""


def make(home: Path) -> None:
    """Link the code into a folder that has a recipe, copy what the commands read beside it, and make it git's."""
    for name in ("flows", "tasks"):
        (home / name).symlink_to(REPO / name)
    done = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True)
    for name in done.stdout.splitlines():
        if name.startswith(NEEDED) and (REPO / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes((REPO / name).read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)


def polm(
    home: Path, *words: str, python: Path | None = None, prefect: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of polm in a working copy, without a network and with services of its own.

    Args:
        home: the working copy.
        words: the command, after `polm`.
        python: program that runs it, DVC and the stages, which then have no warm parents; None: this interpreter.
        prefect: address of the Prefect server of its runs; None: each starts its own.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "DVC_"))}
    environment = kept | {"PYTHONPATH": str(home), "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    folders = [str(program.parent) for program in (python, Path(sys.executable)) if program]
    environment |= {"PATH": os.pathsep.join([*folders, os.environ["PATH"]]), "POLM_WARM": str(int(python is None))}
    if prefect:
        environment["PREFECT_API_URL"] = f"{prefect}/api"
    command = [str(python or sys.executable), "-m", "flows.cli", *words]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
