"""The check of a recipe before its run, in a process of its own beside what else has to be started."""

import functools
import subprocess
import sys

from tasks.stage.errors import ConfigError


@functools.cache
def start_check(recipe: str) -> subprocess.Popen[str]:
    """Start checking the recipe's files against their stages' schemas; once a process, for it takes seconds."""
    command = [sys.executable, "-m", "tasks.check.recipe", f"params/{recipe}"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish_check(recipe: str) -> None:
    """Wait for the recipe's check. Raises ConfigError with what it found."""
    message = _message(recipe)
    status = start_check(recipe).returncode
    if status:
        raise ConfigError(message or f"params/{recipe}: its check ended with exit code {status}")


@functools.cache
def _message(recipe: str) -> str:
    """Wait for the check and read what it wrote, which can be read only once."""
    return start_check(recipe).communicate()[1].strip()


def checked(recipe: str) -> tuple[int, list[str]]:
    """Check a recipe. Returns the exit code, 0 where nothing is wrong, and the lines that the check wrote."""
    lines = _message(recipe).splitlines()
    return start_check(recipe).returncode, lines
