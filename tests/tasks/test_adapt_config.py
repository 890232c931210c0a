"""Property: the adapt stage refuses what cannot work, and says file and key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import adapt
from tasks.check import files
from tasks.stage.errors import ConfigError
from tests.conftest import REPO
from tests.support.adapters import METHODS, configured, values

MakeRun = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("prompt", "packing"),
        ("prompt", "padding_free"),
        ("prefix", "packing"),
        ("prefix", "padding_free"),
        ("prefix", "gradient_checkpointing"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(
    make_run: MakeRun, chat_model: Path, sums_data: Path, name: str, key: str
) -> None:
    config = configured(trainer={key: True})
    with pytest.raises(ConfigError, match=rf"set trainer\.{key} to false for {METHODS[name]['adapter']}: "):
        adapt.main(config, make_run(name), model=chat_model, data=sums_data)


@pytest.mark.parametrize(
    ("peft", "said"),
    [
        ({}, r"methods\.prompt\.peft: missing key 'num_virtual_tokens'"),
        ({"num_virtual_tokens": 4, "prompt_tuning_init": "TEXT"}, r"methods\.prompt\.peft: .*tokenizer_name_or_path"),
        ({"num_virtual_token": 4}, r"unknown key 'methods\.prompt\.peft\.num_virtual_token'; did you mean"),
        ({"num_virtual_tokens": 4, "task_type": "x"}, r"methods\.prompt\.peft\.task_type is set by the stage itself"),
    ],
)
def test_a_wrong_value_names_file_and_key(
    make_run: MakeRun, chat_model: Path, sums_data: Path, peft: dict[str, Any], said: str
) -> None:
    config = configured(methods=METHODS | {"prompt": METHODS["prompt"] | {"peft": peft}})
    with pytest.raises(ConfigError, match=said):
        adapt.main(config, make_run("prompt"), model=chat_model, data=sums_data)


def test_the_recipe_check_names_every_misspelt_key_of_every_method(tmp_path: Path) -> None:
    wrong = json.loads(json.dumps(METHODS))
    wrong["lora"]["peft"]["lora_alpa"] = 8
    wrong["prefix"]["peft"]["num_virtual_token"] = 8
    path = tmp_path / "adapt.yaml"
    with path.open("w") as f:
        YAML(typ="safe").dump(values(methods=wrong, trainer={"max_step": 1, "learning_rate": 1e-3}), f)
    with pytest.raises(ConfigError) as error:
        files.check_file(path, "adapt")
    for said in (
        "unknown key 'methods.lora.peft.lora_alpa'; did you mean 'lora_alpha'? (LoraConfig)",
        "unknown key 'methods.prefix.peft.num_virtual_token'; did you mean 'num_virtual_tokens'?",
        "unknown key 'trainer.max_step'; did you mean 'max_steps'?",
        "trainer.learning_rate is set by the stage itself",
    ):
        assert said in str(error.value)


def test_the_recipes_say_what_peft_knows() -> None:
    paths = sorted((REPO / "params").glob("*/adapt.yaml"))
    assert paths
    for path in paths:
        files.check_file(path, "adapt")
