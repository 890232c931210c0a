"""The optional packages that the recipe's data sets need: whether they are here, and do what they are needed for."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

from flows.doctor.machine import Finding
from tasks.stage import needs, recipe
from tasks.stage.errors import PolmError

SYNTHESISER = "espeakng_loader"
CHECKS = {SYNTHESISER: "speech synthesiser"}
"""Module to the name of its check, where that is another one."""
SPEAK = """
from tasks.generators.espeak import Synthesiser
voice = Synthesiser()
print(len(voice.say("seven", "en-us", voice.variants[0], 160, 50)) / voice.sampling_rate)
"""
"""Says a word, in a process of its own: a library that does not fit the machine may take its process with it."""
PATIENCE = 60
"""Seconds until it should have spoken."""


def packages(folder: Path) -> Iterator[Finding]:
    """Check each module that a data set of the recipe in this folder needs; without it, that data set is left out."""
    try:
        graph = recipe.read(folder / recipe.FILE)
    except PolmError:
        return  # the check of the recipe says it
    missing = {module for modules in needs.missing(graph).values() for module in modules}
    gone = needs.left_out(graph)
    for module in sorted({module for model in graph.models.values() for module in model.needs}):
        check = CHECKS.get(module, module)
        if module in missing:
            names = ", ".join(name for name, modules in gone.items() if module in modules)
            yield Finding("warn", check, f"{module} is missing; left out: {names}", needs.remedy((module,)))
        elif module == SYNTHESISER:
            yield _speaks(check)
        else:
            yield Finding("ok", check, f"{_named(module)} is here")


def _named(module: str) -> str:
    distributions = packages_distributions().get(module.partition(".")[0])
    return f"{module} {version(distributions[0])}" if distributions else module


def _speaks(check: str) -> Finding:
    found = f"espeak-ng ({_named(SYNTHESISER)})"
    remedy = f"install it anew: {needs.remedy((SYNTHESISER,))}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", SPEAK], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return Finding("fail", check, f"{found} did not speak in {PATIENCE} s", remedy)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Finding("fail", check, f"{found} does not speak: {reason}", remedy)
    return Finding("ok", check, f"{found} speaks")
