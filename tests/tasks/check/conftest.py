"""The recipes that ship, to be broken."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import REPO


@pytest.fixture
def recipes(workspace: Path) -> Path:
    """A copy of the real recipes, of the launchers they name, and of `dvc.yaml`."""
    shutil.copytree(REPO / "params", "params", symlinks=True)
    shutil.copytree(REPO / "infra/accelerate", "infra/accelerate")
    shutil.copyfile(REPO / "dvc.yaml", "dvc.yaml")
    return workspace
