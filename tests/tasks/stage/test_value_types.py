"""Values that a library takes as they are: text in the place of a number is named, and what is right passes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from trl import DPOConfig, GRPOConfig, SFTConfig

from tasks.check import files
from tasks.stage import value_types
from tasks.stage.config import check_trainer
from tasks.stage.errors import ConfigError
from tests.conftest import REPO

PATH = Path("params/mine/sft.yaml")


@pytest.mark.parametrize(
    ("declared", "values", "said"),
    [
        (SFTConfig, {"learning_rate": "fast"}, "trainer.learning_rate is 'fast'; expected a number (SFTConfig)"),
        (SFTConfig, {"max_steps": "many"}, "trainer.max_steps is 'many'; expected a number"),
        (SFTConfig, {"max_length": "long"}, "trainer.max_length is 'long'; expected a number"),
        (SFTConfig, {"learning_rate": [1e-4]}, "trainer.learning_rate is [0.0001]; expected a number"),
        (SFTConfig, {"learning_rate": True}, "trainer.learning_rate is True; expected a number"),
        (GRPOConfig, {"epsilon_high": {"a": 1}}, "trainer.epsilon_high is {'a': 1}; expected a number"),
        (SFTConfig, {"bf16": "yes"}, "trainer.bf16 is 'yes'; expected true or false"),
        (DPOConfig, {"loss_weights": ["a", 1.0]}, "trainer.loss_weights is ['a', 1.0]; expected a list of numbers"),
        (LoraConfig, {"r": "sixteen"}, "trainer.r is 'sixteen'; expected a number"),
        (LoraConfig, {"layers_to_transform": ["a"]}, "expected a number or a list of numbers"),
    ],
)
def test_text_in_the_place_of_a_number_is_named(declared: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as e:
        check_trainer(PATH, values, declared)
    assert said in str(e.value) and str(e.value).startswith(f"{PATH}: ")


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        (SFTConfig, {"learning_rate": 1, "max_steps": 5, "max_length": None, "bf16": False, "eval_strategy": "no"}),
        (SFTConfig, {"lr_scheduler_type": "cosine", "deepspeed": {"stage": 2}, "optim": "adamw_torch", "debug": "x"}),
        (DPOConfig, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5]}),
        (LoraConfig, {"lora_alpha": 0.5, "layers_to_transform": 3, "target_modules": "all-linear", "bias": "none"}),
    ],
)
def test_what_a_library_takes_passes(declared: Any, values: dict[str, Any]) -> None:
    assert list(value_types.wrong(values, declared)) == []


def test_a_function_declares_its_options(workspace: Path) -> None:
    def rows(count: int, share: float, digits: list[int], name: str, rest: Any = None) -> Iterator[dict[str, Any]]:
        yield {}

    right: dict[str, Any] = {"count": 3, "share": 1, "digits": [1], "name": "a", "rest": "x"}
    assert list(value_types.wrong(right, rows)) == []
    wrong = dict.fromkeys(right, "many")
    assert [key for key, _ in value_types.wrong(wrong, rows)] == ["count", "share", "digits"]


def test_an_option_of_a_generator_is_named(workspace: Path) -> None:
    text = (REPO / "params/tiny/pictures.yaml").read_text(encoding="utf-8")
    assert text.count("rounds: 4") == 1
    Path("pictures.yaml").write_text(text.replace("rounds: 4", "rounds: often"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sources\.digits\.options\.rounds is 'often'; expected a number"):
        files.check_file(Path("pictures.yaml"), "data")
