"""The recipes that ship, and what the recipe check says of one of their files."""

from pathlib import Path

from tasks.check import recipe as recipe_check
from tests.conftest import REPO

RECIPES = sorted(path.name for path in (REPO / "params").iterdir() if path.is_dir())
FILES = sorted(path.relative_to(REPO) for path in (REPO / "params").glob("*/*.yaml") if path.name != "recipe.yaml")


def only_error(path: Path) -> str:
    """What the check says about this file; fails when it says anything about another one."""
    errors = recipe_check.check(path.parent)
    assert len(errors) == 1 and all(line.startswith(f"{path}: ") for line in errors[0].splitlines()), errors
    return errors[0]
