"""Variables of a shell that accelerate and torchrun would read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tasks.stage import inherited
from tests.conftest import REPO
from tests.support import data_stage


def test_what_decides_is_taken_out_and_named() -> None:
    kept = {"PATH": "/bin", "ACCELERATE_DEBUG_MODE": "true", "HF_HOME": "/hf"}
    gone = {"ACCELERATE_MIXED_PRECISION": "bf16", "FSDP_OFFLOAD_PARAMS": "true", "PET_NNODES": "2", "RANK": "1"}
    environment = kept | gone
    assert inherited.take_out(environment) == sorted(gone)
    assert environment == kept


def test_one_of_several_processes_keeps_its_place() -> None:
    environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}
    assert inherited.take_out(environment) == []
    assert len(environment) == 3


@pytest.mark.parametrize(("variable", "code"), [({"RANK": "1"}, 0), ({"RANK": "1", "WORLD_SIZE": "2"}, 2)])
def test_a_rank_that_was_left_behind_makes_no_artifact_vanish(
    variable: dict[str, str], code: int, workspace: Path
) -> None:
    """It made the only process one of those that write nothing, and end well."""
    (workspace / "params").mkdir()
    YAML().dump(data_stage.recipe(), workspace / "params/data.yaml")
    data_stage.write_rows(workspace, data_stage.numbered(20))
    words = ["-m", "tasks.data", "params/data.yaml", "--out", "artifacts/data"]
    environment = os.environ | {"PYTHONPATH": str(REPO)} | variable
    ended = subprocess.run(
        [sys.executable, *words], env=environment, cwd=workspace, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code, ended.stderr
    if code:
        assert "this stage runs in one process, and WORLD_SIZE says that 2 came up" in ended.stderr
    else:
        assert (workspace / "artifacts/data/manifest.json").exists()
        assert "ignored, as the recipe alone decides this: RANK" in ended.stderr
