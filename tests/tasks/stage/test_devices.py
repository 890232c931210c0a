"""Devices of recipe files: misspelt ones, and ones that the machine lacks, are named before anything runs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks.stage import devices
from tasks.stage.config import StageConfig, Strict
from tasks.stage.errors import ConfigError
from tests.conftest import REPO

PATH = Path("params/mine/label.yaml")


class Judge(Strict):
    """A section with a device."""

    device: str


class Config(StageConfig):
    """A recipe file with two devices."""

    device: str
    judge: Judge | None


def configured(device: str, judge: str | None = None) -> Config:
    return Config(seed=0, threads=1, device=device, judge=None if judge is None else Judge(device=judge))


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps", "xpu:0"])
def test_devices_that_torch_knows_pass(device: str) -> None:
    devices.check_names(PATH, configured(device))
    assert str(torch.device(device)) == device


@pytest.mark.parametrize("device", ["gpu", "cdua", "cuda:x", "cuda 1", ""])
def test_a_misspelt_device_is_named_wherever_it_stands(device: str) -> None:
    said = rf"^params/mine/label\.yaml: judge\.device is '{device}', no device; write cpu, cuda, mps, xpu, or one of"
    with pytest.raises(ConfigError, match=said):
        devices.check_names(PATH, configured("cpu", device))


def test_a_device_that_the_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="device is 'cuda', and this machine has none, or torch does not see it"):
        devices.require(PATH, configured("cuda"))
    devices.require(PATH, configured("cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices.require(PATH, configured("cuda:1"))
    (message,) = devices.lacking(PATH, configured("cuda", "cuda:2"))
    assert message.startswith(f"{PATH}: judge.device is 'cuda:2', and this machine has 2 of them, numbered from 0")


def test_a_stage_refuses_the_device_before_its_work(workspace: Path) -> None:
    text = (REPO / "params/tiny/sight.yaml").read_text(encoding="utf-8")
    assert "device: cpu" in text
    Path("sight.yaml").write_text(text.replace("device: cpu", "device: gpu"), encoding="utf-8")
    shutil.copytree(REPO / "tasks", "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "tasks.align", "sight.yaml", "--model", "m", "--data", "d", "--out", "o"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2, "error: sight.yaml: device is 'gpu', no device; write cpu, cuda, mps, xpu, or one of several, e.g. cuda:1\n",
    )  # fmt: skip
