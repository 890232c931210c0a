"""`polm check`: everything that would fail later in a recipe, its data and this machine, all at once.

The check is `tasks/check/recipe.py`, in a process of its own, because it imports every stage of the recipe; `polm run`
makes the same one before its first step.
"""

import sys
import time

from rich.console import Console

from flows import workspace
from flows.pipeline import recipe_check
from flows.pipeline.recipe_check import WARNING
from flows.terminal.exits import WRONG


def main(recipe: str | None) -> None:
    """Print what is wrong with a recipe, and what it warns of.

    Args:
        recipe: name of the recipe; None checks the active one.

    Raises:
        ConfigError: there is no such recipe.
        SystemExit: with exit code 2, something is wrong.
    """
    name = recipe or workspace.active_recipe()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    start = time.perf_counter()
    with console.status(f"checking {name} …"):
        status, lines = recipe_check.checked(name)
    seconds = time.perf_counter() - start
    warnings = [line for line in lines if line.startswith(WARNING)]
    faults = [line for line in lines if not line.startswith(WARNING)]
    for line in (*warnings, *faults):
        console.print(line, markup=False)
    if status:
        console.print(f"params/{name}: {_counted(faults, 'fault')}, {_counted(warnings, 'warning')} in {seconds:.1f} s")
        sys.exit(WRONG)
    console.print(f"params/{name}: nothing wrong, {_counted(warnings, 'warning')} in {seconds:.1f} s")


def _counted(lines: list[str], what: str) -> str:
    return f"{len(lines)} {what}{'' if len(lines) == 1 else 's'}"
