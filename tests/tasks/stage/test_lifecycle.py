"""A stage's command: the entry of `methods:` that runs, and what of the recipe file is then its identity."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.stage.config import StageConfig, digest
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import choose_method, peak_memory
from tests.conftest import REPO

PATH = Path("params/mine/prune.yaml")


class Config(StageConfig):
    """A recipe file with methods."""

    methods: dict[str, dict[str, float]]
    """Name to settings."""


def configured(**methods: float) -> Config:
    return Config(seed=0, threads=1, methods={name: {"share": share} for name, share in methods.items()})


def test_the_other_methods_are_no_part_of_the_identity() -> None:
    before = choose_method(configured(wanda=0.5, depth=0.1), "wanda", PATH)
    after = choose_method(configured(wanda=0.5, depth=0.9), "wanda", PATH)
    changed = choose_method(configured(wanda=0.6, depth=0.1), "wanda", PATH)
    assert digest(before) == digest(after) != digest(changed)


def test_an_unknown_method_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"params/mine/prune\.yaml: methods has no 'wadna'; did you mean 'wanda'\?"):
        choose_method(configured(wanda=0.5, depth=0.1), "wadna", PATH)


def test_peak_memory_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    held = bytearray(300_000_000)
    held[::4096] = b"x" * len(held[::4096])
    code = "from tasks.stage.lifecycle import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert int(child.stdout) < 200_000_000 < len(held) <= peak_memory()
