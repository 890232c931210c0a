"""The check of a recipe before its run, in a process of its own beside what else has to be started."""

import functools
import subprocess
import sys

from flows.registry import policy
from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError

WARNING = "warning: "
"""Start of a line that is no fault."""


@functools.cache
def start_check(recipe: str) -> subprocess.Popen[str]:
    """Start checking the recipe's files against their stages' schemas; once a process, for it takes seconds."""
    command = [sys.executable, "-m", "tasks.check.recipe", f"params/{recipe}"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish_check(recipe: str) -> None:
    """Wait for the recipe's check. Raises ConfigError with what it found."""
    status, lines = checked(recipe)
    if status:
        raise ConfigError("\n".join(lines) or f"params/{recipe}: its check ended with exit code {status}")


def checked(recipe: str) -> tuple[int, list[str]]:
    """Check a recipe. Returns the exit code, 0 where nothing is wrong, and the lines that the check wrote."""
    lines = _message(recipe).splitlines()
    status = start_check(recipe).returncode
    faults = [line for line in _policy(recipe) if line not in lines]
    return status or (2 if faults else 0), lines + faults


def warnings(recipe: str) -> list[str]:
    """Return the lines of a recipe's check that are no faults."""
    return [line for line in checked(recipe)[1] if line.startswith(WARNING)]


@functools.cache
def _message(recipe: str) -> str:
    """Wait for the check and read what it wrote, which can be read only once."""
    return start_check(recipe).communicate()[1].strip()


def _policy(recipe: str) -> list[str]:
    """List what is wrong with the recipe's sections of the registry's policy, whose schema `tasks` does not know."""
    if not policy.POLICY.is_file():
        return []
    found: list[str] = []
    try:
        sections = read_yaml(policy.POLICY)
    except ConfigError as e:
        return str(e).splitlines()
    own = [str(name).partition("/")[2] for name in sections if str(name).startswith(f"{recipe}/")]
    for data in (None, *own):
        if policy.DEFAULT in sections or policy.section_name(recipe, data) in sections:
            try:
                policy.load_policy(recipe, data=data)
            except ConfigError as e:
                found += str(e).splitlines()
    return list(dict.fromkeys(found))
