"""The runners' file: what it places where, and which mistakes it names."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.graph import Meta, Stage
from flows.runners import settings
from tasks.stage.errors import ConfigError
from tests.conftest import REPO

SLURM: dict[str, Any] = {
    "engine": "slurm", "jobs": 4, "python": "/opt/polm/bin/python", "work": "/scratch/polm", "environment": [],
    "output": "/shared/output", "options": {"partition": "gpu", "time": "2:00:00"},
}  # fmt: skip


def written(folder: Path, *, rules: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    values = {
        "code": "/shared/code.git",
        "checkpoints": None,
        "runners": {"big": SLURM},
        "rules": rules if rules is not None else [{"stages": "sft", "runner": "big"}],
    }
    path = folder / "runners.yaml"
    with path.open("w") as f:
        YAML(typ="safe").dump(values | changes, f)
    return path


def stage(name: str, gpus: int = 0) -> Stage:
    return Stage(name, Path("artifacts", name), frozenset(), Meta(gpus=gpus), 1)


STAGES = [stage("data"), stage("sft@cot"), stage("sft@sft"), stage("grpo@grpo", gpus=2), stage("evaluate@grpo")]


@pytest.mark.parametrize(
    ("rule", "placed"),
    [
        ({"stages": "sft"}, ["sft@cot", "sft@sft"]),
        ({"stages": "sft@cot"}, ["sft@cot"]),
        ({"stages": "*@grpo"}, ["grpo@grpo", "evaluate@grpo"]),
        ({"meta": {"gpus": 1}}, ["grpo@grpo"]),
        ({"stages": "evaluate", "meta": {"gpus": 1}}, []),
        ({"stages": "*"}, [s.name for s in STAGES]),
    ],
)
def test_a_rule_places_by_name_pattern_method_and_gpus(tmp_path: Path, rule: dict[str, Any], placed: list[str]) -> None:
    runners = settings.read(written(tmp_path, rules=[rule | {"runner": "big"}]))
    assert [s.name for s in STAGES if runners.of(s) == "big"] == placed
    assert {runners.of(s) for s in STAGES} <= {"big", "local"}


def test_the_first_rule_that_fits_decides(tmp_path: Path) -> None:
    rules = [{"stages": "sft@cot", "runner": "local"}, {"stages": "sft", "runner": "big"}]
    runners = settings.read(written(tmp_path, rules=rules))
    assert [runners.of(s) for s in STAGES] == ["local", "local", "big", "local", "local"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"runners": {"big": SLURM | {"pythn": "x"}}},
            r"unknown key 'runners\.big\.slurm\.pythn'; did you mean 'python'",
        ),
        ({"rules": [{"stages": "sft", "runner": "bigg"}]}, r"rules\.0\.runner: no runner 'bigg'; did you mean 'big'\?"),
        ({"rules": [{"runner": "big"}]}, r"rules\.0: says neither `stages` nor `meta`"),
        ({"rules": [{"stages": "sft", "meta": {"gpu": 1}, "runner": "big"}]}, r"rules\.0\.meta\.gpu"),
        ({"code": "https://ann:hunter2@git.example/p.git"}, r"code: holds a name or a password"),
        ({"runners": {"big": SLURM | {"queue_minutes": 0}}}, r"runners\.big\.slurm\.queue_minutes"),
        ({"code": "../code.git"}, r"code is '\.\./code\.git'; expected a URL or an absolute path"),
        ({"runners": {"big": SLURM | {"python": "~/venv/bin/python"}}}, r"runners\.big\.python is '~/venv/bin/python'"),
        (
            {"runners": {"big": SLURM | {"environment": ["HF_TOKEN=hunter2"]}}},
            r"runners\.big\.environment\.0 is no name",
        ),
        ({"runners": {"big": SLURM | {"environment": ["ALL"]}}}, r"runners\.big\.environment\.0: ALL means"),
        ({"runners": {"big": SLURM | {"options": {"exclusive": True}}}}, r"runners\.big\.slurm\.options\.exclusive"),
        ({"runners": {"big": SLURM | {"output": "/shared/100%"}}}, r"runners\.big\.output is '/shared/100%'"),
        ({"checkpoints": "shared"}, r"checkpoints is 'shared'; expected an absolute path"),
        ({"runners": {"big": SLURM | {"work": "w"}}}, r"runners\.big\.work is 'w'; expected an absolute path"),
        ({"runners": {"local": SLURM}}, r"runners\.local: this name stands for the machine"),
        ({"runners": {"Big": SLURM}, "rules": []}, r"runners\.Big: a name has small letters, digits and dashes only"),
        ({"runners": {"big": SLURM | {"engine": "pbs"}}}, r"'runners\.big' is"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        settings.read(path)
    assert str(path) in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_rule_that_places_nothing_is_warned_of(tmp_path: Path) -> None:
    rules = [
        {"stages": "dpo", "runner": "big"}, {"stages": "sft", "runner": "local"}, {"stages": "sft@*", "runner": "big"},
    ]  # fmt: skip
    path = written(tmp_path, rules=rules)
    assert settings.unused(path, settings.read(path), STAGES) == [
        f"{path}: rules.0 (stages: dpo) fits no stage of the recipe",
        f"{path}: rules.2 (stages: sft@*) is without effect: earlier rules fit all its stages",
    ]


def test_a_variable_that_is_not_set_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    path = written(tmp_path, runners={"big": SLURM | {"environment": ["HF_TOKEN"]}})
    said = f"{path}: runners.big.environment: HF_TOKEN is not set here, so not passed on"
    assert settings.unused(path, settings.read(path), STAGES) == [said]
    monkeypatch.setenv("HF_TOKEN", "x")
    assert settings.unused(path, settings.read(path), STAGES) == []


def test_the_shipped_file_is_read_and_places_nothing() -> None:
    runners = settings.read(REPO / "infra/runners.yaml")
    assert {runner.engine for runner in runners.runners.values()} == {"slurm", "ray", "kubernetes"}
    assert {runners.of(s) for s in STAGES} == {"local"}
