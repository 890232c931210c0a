"""Property: every misspelt key of every shipped recipe is named, with the key that was meant."""

from pathlib import Path

import pytest

from tasks.check import recipe as recipe_check
from tasks.stage.config import read_yaml
from tests.support.shipped_recipes import FILES, RECIPES, only_error
from tests.support.small_recipe import write

OPTIONAL = {"max_left_out", "max_cut", "too_long", "chat_template", "pictures", "videos", "sounds"}
"""Keys that recipes may lack, which then are read in the strictest sense: nothing is lost, nothing is replaced."""
CHOSEN = {"headline", "frontier"}
"""Keys of a report that recipes may lack, which are then chosen by what the recipe evaluates."""
OF_PACKAGED_EYES = {"sight": {"temperature", "trained", "weights"}}
"""Model to the keys that its stage takes for an encoder out of a package alone."""
EVERY = 6
"""A check of a recipe takes over a second: of its files, every sixth is broken at a time, beside five whole ones."""


def misspell(path: Path) -> list[str]:
    """Put an x behind every key of a file; returns what is to be said of it."""
    data = read_yaml(path)
    write(path, {f"{key}x": value for key, value in data.items()})
    may_lack = OPTIONAL | CHOSEN | OF_PACKAGED_EYES.get(path.stem, set())
    said = [f"unknown key '{key}x'; did you mean '{key}'?" for key in data]
    return said + [f"missing key '{key}'" for key in data if key not in may_lack]


def unsaid(expected: dict[Path, list[str]], errors: list[str]) -> list[str]:
    """Return what was to be said of each file and is not."""
    lines = [line for error in errors for line in error.splitlines()]
    return [
        f"{path}: {part}"
        for path, parts in expected.items()
        for part in parts
        if not any(line.startswith(f"{path}: ") and part in line for line in lines)
    ]


@pytest.mark.parametrize("first", range(EVERY))
def test_every_misspelt_key_of_a_file_is_named_and_nothing_is_said_of_another(recipes: Path, first: int) -> None:
    files = [path for path in FILES if path.parent.name == "tiny"][first::EVERY]
    expected = {path: misspell(path) for path in files}
    errors = recipe_check.check(Path("params/tiny"))
    assert unsaid(expected, errors) == []
    assert {line.split(": ")[0] for error in errors for line in error.splitlines()} == {str(path) for path in files}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_misspelt_key_of_every_file_is_named_at_once(recipes: Path, recipe: str) -> None:
    expected = {path: misspell(path) for path in FILES if path.parent.name == recipe}
    assert unsaid(expected, recipe_check.check(Path("params", recipe))) == []


@pytest.mark.parametrize(
    "path", [Path("params/tiny", name) for name in ("sft.yaml", "dpo.yaml", "reward.yaml")], ids=str
)
def test_every_misspelt_key_of_the_trainer_is_named(recipes: Path, path: Path) -> None:
    data = read_yaml(path)
    write(path, data | {"trainer": {f"{key}x": value for key, value in data["trainer"].items()} | {"output_dir": "x"}})
    said = only_error(path)
    for key in data["trainer"]:
        assert f"unknown key 'trainer.{key}x'; did you mean" in said
    assert "trainer.output_dir is set by the stage itself" in said


def test_a_misspelt_key_of_peft_is_named(recipes: Path) -> None:
    path = Path("params/tiny/sft.yaml")
    write(path, read_yaml(path) | {"peft": {"r": 8, "lora_alpa": 16}})
    assert "unknown key 'peft.lora_alpa'; did you mean 'lora_alpha'? (LoraConfig)" in only_error(path)
