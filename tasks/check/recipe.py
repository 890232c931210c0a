"""Check every file of a recipe against the stage that reads it, before anything runs.

    python -m tasks.check.recipe params/tiny

Which file belongs to which stage follows from the recipe's graph and `dvc.yaml`. All errors of all files are shown at
once (exit code 2): each file is read by itself, and each check of files against each other, against the data, the model
and the machine leaves out those files that are wrong by themselves, and goes on with the others. The check needs the
`trainer:` classes of TRL, whose import takes seconds, so a recipe that passed is not checked again until its files, the
stages' code, `dvc.yaml`, the packages, the machine's memory or the files that it reads change: `.polm/checked/<recipe>`
keeps the hash of what passed, `<recipe>.said` the warnings of it, which are repeated.
"""

import argparse
import contextlib
import gc
import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import psutil

from tasks.check import (
    benchmarks,
    context,
    datasets,
    gates,
    media,
    prompts,
    questions,
    resources,
    retrieval,
    rows,
    sources,
    trainers,
    values,
)
from tasks.check import graph as graph_check
from tasks.check.absent import absent
from tasks.check.files import Recipe, load_all
from tasks.check.rows import BASE, DATA
from tasks.stage import artifact, blocks, dag, devices, needs, recipe
from tasks.stage.config import nearest, suggest
from tasks.stage.errors import ConfigError, PolmError, kind, refusal
from tasks.stage.lifecycle import OFFLINE_AND_QUIET

log = logging.getLogger("polm")
PACKAGES = ("pydantic", "transformers", "trl", "peft")
"""Packages whose version decides what a recipe may say."""
GIB = 2**30
SAID = ".said"
"""Suffix of the file with the warnings of a recipe that passed, behind the hash of what did."""
_PLACE = re.compile(r"\b(?:file|folder|hub|media|adapter):\s*[\"']?([^\s,\"'{}]+)")
Compared = Callable[[Recipe], Iterable[str]]
BY_ITSELF: tuple[Compared, ...] = (values.check, trainers.check)
"""Checks of each file, which need no graph."""
TOGETHER: tuple[Compared, ...] = (
    datasets.check, graph_check.check_datasets, graph_check.check_sounds, graph_check.check_metrics,
    graph_check.check_forms, media.check_architectures, questions.check_questions, gates.check, benchmarks.check,
    sources.check, retrieval.check, context.check, rows.check, prompts.check, resources.check,
)  # fmt: skip
"""Checks of files against each other, the data, the model and the machine."""
NOTICED: tuple[Compared, ...] = (
    lambda of: graph_check.unused_methods(of.graph), lambda of: graph_check.never_evaluated(of.graph),
    media.unused_sections, media.other_rates, gates.notices, sources.notices, context.notices, prompts.notices,
    resources.notices,
    values.notices,
)  # fmt: skip
"""What is no error, and worth a line."""


def check(folder: Path) -> list[str]:
    """Check one recipe folder.

    Args:
        folder: the recipe's, e.g. `params/tiny`.

    Returns:
        What is wrong, one message for each fault; empty when all is well. Warnings are logged.

    Raises:
        ConfigError: there is no such recipe, or `dvc.yaml` cannot be read.
    """
    _require(folder)
    stages = blocks.read()
    try:
        graph = recipe.read(folder / recipe.FILE)
        errors = dag.problems(graph, stages)
        readers = dag.files(graph, stages)
    except ConfigError as e:  # without a graph, the files that every recipe has
        errors = [str(e)]
        graph = recipe.Graph(folder / recipe.FILE, folder.name, {}, (), (), ())
        readers = {name: module for name, module in dag.files(graph, stages).items() if (folder / name).exists()}
    whole = not errors
    with absent("mlflow", *(() if recipe.RETRIEVER in readers.values() else ("sklearn",))):
        under_check, wrong = load_all(graph, readers)
    errors += wrong
    if whole:
        _warn_of_unread(under_check)
        errors += _said(lambda _: graph_check.check_methods(graph, stages), under_check)
    for compared in (*BY_ITSELF, *(TOGETHER if whole else ())):
        errors += _said(compared, under_check)
    for noticed in NOTICED if whole else ():
        for notice in _said(noticed, under_check):
            if not any(notice in error for error in errors):
                log.warning("warning: %s", notice)
    return _once(errors)


def _said(compared: Compared, under_check: Recipe) -> list[str]:
    """Collect what one check says, and what stopped it."""
    found: list[str] = []
    try:
        found += compared(under_check)
    except PolmError as e:
        found.append(str(e))
    return found


def _once(messages: list[str]) -> list[str]:
    """Leave out messages whose lines have all been said: a file that is wrong is met by several checks."""
    said: set[str] = set()
    kept = []
    for message in messages:
        lines = set(message.splitlines())
        if not lines <= said:
            kept.append(message)
        said |= lines
    return kept


def _warn_of_unread(under_check: Recipe) -> None:
    readers, graph = under_check.readers, under_check.graph
    present = {p.name for p in under_check.folder.glob("*.yaml")} - {recipe.FILE}
    for extra in sorted(present - set(readers)):
        near = nearest(extra, readers)
        hint = f"; did you mean {near}?" if near else ""
        log.warning("warning: %s: nothing in %s needs this file%s", graph.path.parent / extra, graph.path, hint)


def _require(folder: Path) -> None:
    if not folder.is_dir():
        recipes = sorted(p.name for p in folder.parent.glob("*") if p.is_dir())
        hint = suggest(folder.name, recipes) if recipes else "; there are none"
        raise ConfigError(f"{folder}: no such recipe{hint} (a new one: `polm new`, or `cp -r params/tiny {folder}`)")


def _lacking(folder: Path) -> list[str]:
    """Name the devices that a recipe's files name and this machine lacks."""
    graph = recipe.read(folder / recipe.FILE)
    configs = load_all(graph, dag.files(graph, blocks.read()))[0].configs
    return [message for name, config in sorted(configs.items()) for message in devices.lacking(folder / name, config)]


def fingerprint(folder: Path) -> str:
    """Hash of all that the check depends on; what free disk there is counts in powers of two."""
    state = hashlib.sha256(" ".join(f"{name}={version(name)}" for name in PACKAGES).encode())
    free = shutil.disk_usage(".").free // GIB
    state.update(f"memory {psutil.virtual_memory().total // GIB} disk {free.bit_length()}\n".encode())
    made = [path for path in (DATA / artifact.MANIFEST, BASE / artifact.MANIFEST) if path.exists()]
    package = Path(__file__).parents[1]
    code = {path.relative_to(package): path for path in sorted(package.rglob("*.py"))}
    files = [path for pattern in ("**/*.yaml", "*.py") for path in sorted(folder.glob(pattern))]
    inputs = {path: path for path in (Path("dvc.yaml"), gates.POLICY, *files, *made)}
    for name, path in (inputs | code).items():
        content = artifact.sha256(path) if path.is_file() else kind(path)  # the check itself names what is no file
        state.update(f"{name} {content}\n".encode())
    for path in sorted({inner for file in files for inner in _named_places(file)}):
        status = path.stat()
        state.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return state.hexdigest()


def _named_places(file: Path) -> set[Path]:
    """List the files and folders of rows and models that a recipe file names, and what lies in such a folder."""
    if not file.is_file():
        return set()
    named = {Path(match[1]) for match in _PLACE.finditer(file.read_text(encoding="utf-8", errors="replace"))}
    there = {path for path in named if not path.is_absolute() and path.exists()}
    return there | {inner for path in there if path.is_dir() for inner in path.iterdir() if inner.exists()}


def main() -> None:
    """Run as a command. Exits 0, or 2 with every error on standard error; warnings come first."""
    parser = argparse.ArgumentParser(prog="python -m tasks.check.recipe")
    parser.add_argument("recipe", type=Path, help="recipe folder, e.g. params/tiny")
    folder = parser.parse_args().recipe
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name, value in OFFLINE_AND_QUIET.items():
        os.environ.setdefault(name, value)
    passed = artifact.STATE / "checked" / folder.name
    warnings = _Warnings()
    try:
        _require(folder)
        state = fingerprint(folder)
        with contextlib.suppress(ConfigError):  # the check says it, beside what else is wrong
            for notice in needs.notices(recipe.read(folder / recipe.FILE)):
                log.warning("warning: %s: %s", folder / recipe.FILE, notice)
        if kind(passed) == "a file" and passed.read_text() == state:
            _repeat(passed, state)
            return
        log.addHandler(warnings)
        errors = check(folder)
        with contextlib.suppress(ConfigError):
            errors += _lacking(folder)
    except PolmError as e:
        errors = [str(e)]
    except OSError as e:
        errors = [refusal(e) or f"{folder}: {e}"]
    if errors:
        log.error("%s", "\n".join(errors))
        sys.exit(2)
    with contextlib.suppress(OSError):  # a check that cannot be remembered is made again
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.with_suffix(SAID).write_text("\n".join([state, *warnings.lines]))
        passed.write_text(state)


class _Warnings(logging.Handler):
    """Collects what the check warns of."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(record.getMessage())


def _repeat(passed: Path, state: str) -> None:
    """Say again what was warned of when the recipe passed."""
    said = passed.with_suffix(SAID)
    lines = said.read_text().splitlines() if kind(said) == "a file" else []
    if lines[:1] == [state]:
        for line in lines[1:]:
            log.warning("%s", line)


if __name__ == "__main__":
    gc.disable()  # a seventh of the time: nearly all of it is imports, whose objects stay
    main()
