"""Check every file of a recipe against the stage that reads it, before anything runs.

    python -m tasks.check.recipe params/tiny

Which file belongs to which stage follows from the recipe's graph and `dvc.yaml`. All errors of all files are shown at
once (exit code 2). The check needs the `trainer:` classes of TRL, whose import takes seconds, so a recipe that passed
is not checked again until its files, the stages' code, `dvc.yaml` or the packages change: `.polm/checked/<recipe>`
keeps the hash of what passed. Where the recipe's data and base model are made already, their rows are compared with
the recipe too (`tasks/check/rows.py`).
"""

import argparse
import contextlib
import hashlib
import importlib
import logging
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from tasks.check import graph as graph_check
from tasks.check import media, questions
from tasks.check.rows import BASE, DATA, check_rows
from tasks.ingestion.sources import GeneratorSource, find_generator
from tasks.rewards.composite import RewardSpec, named_graders
from tasks.stage import artifact, dag, devices, needs, recipe, value_types
from tasks.stage.config import StageConfig, check_trainer, load, nearest, suggest
from tasks.stage.errors import ConfigError, DataError, PolmError, kind, refusal
from tasks.stage.lifecycle import OFFLINE_AND_QUIET
from tasks.stage.trainer_config import TrlConfig, Verbatim

log = logging.getLogger("polm")
PACKAGES = ("pydantic", "transformers", "trl")
"""Packages whose version decides what a recipe may say."""


def check(folder: Path) -> list[str]:
    """Check one recipe folder.

    Args:
        folder: the recipe's, e.g. `params/tiny`.

    Returns:
        What is wrong, one message for each file that is; empty when all is well.

    Raises:
        ConfigError: there is no such recipe, or `dvc.yaml` cannot be read.
    """
    _require(folder)
    graph, blocks = recipe.read(folder / recipe.FILE), dag.blocks()
    if errors := dag.problems(graph, blocks):
        return errors
    readers = dag.files(graph, blocks)
    present = {p.name for p in folder.glob("*.yaml")} - {recipe.FILE}
    for extra in sorted(present - set(readers)):
        near = nearest(extra, readers)
        hint = f"; did you mean {near}?" if near else ""
        log.warning("warning: %s: nothing in %s needs this file%s", folder / extra, graph.path, hint)
    errors = [f"{folder / name}: no such file, and {graph.path} needs it" for name in readers if name not in present]
    for name in sorted(present & set(readers)):
        try:
            _check_file(folder / name, readers[name])
        except PolmError as e:
            errors.append(str(e))
    if errors := errors or list(graph_check.check_methods(graph, blocks)):
        return errors
    for noticed in (graph_check.unused_methods, media.unused_sections, media.other_rates):
        for notice in noticed(graph):
            log.warning("warning: %s", notice)
    for compared in (
        graph_check.check_datasets, graph_check.check_sounds, media.check_architectures, graph_check.check_metrics,
        graph_check.check_forms,
    ):  # fmt: skip
        errors += compared(graph)
    errors += [] if errors else questions.check_questions(graph)
    others = {f"{name}.yaml" for name, model in graph.models.items() if recipe.DATA_KEY in model.values}
    return errors or check_rows(folder, {file: stage for file, stage in readers.items() if file not in others})


def _require(folder: Path) -> None:
    if not folder.is_dir():
        recipes = sorted(p.name for p in folder.parent.glob("*") if p.is_dir())
        hint = suggest(folder.name, recipes) if recipes else "; there are none"
        raise ConfigError(f"{folder}: no such recipe{hint} (a new one: `cp -r params/tiny {folder}`)")


def _check_file(path: Path, module_name: str) -> None:
    """Raises ConfigError with every error that can be found in one file."""
    try:
        module = importlib.import_module(f"tasks.{module_name}")
    except ModuleNotFoundError as e:
        raise ConfigError(f"dvc.yaml: a stage runs tasks.{module_name}, which cannot be imported ({e})") from None
    config = load(path, module.Config)
    _check_names(path, config)
    devices.check_names(path, config)
    if isinstance(config, TrlConfig):
        _check_verbatim(path, config.verbatim(module.trainer_class()))


def _check_names(path: Path, config: StageConfig) -> None:
    """Find the graders and generators that a file names. Raises ConfigError."""
    for _, value in config:
        sections = value if isinstance(value, Mapping) else {}
        specs = {name: section for name, section in sections.items() if isinstance(section, RewardSpec)}
        named_graders(specs, path)
        for name, source in sections.items():
            if isinstance(source, GeneratorSource):
                try:
                    function = find_generator(source, path.parent)
                except DataError as e:
                    raise ConfigError(f"{path}: sources.{name}: {e}") from None
                for option, expected in value_types.wrong(source.options, function):
                    value = source.options[option]
                    raise ConfigError(f"{path}: sources.{name}.options.{option} is {value!r}; expected {expected}")


def _check_verbatim(path: Path, sections: list[Verbatim]) -> None:
    """What is passed on as it is: `trainer:` to TRL, `peft:` to PEFT. Raises ConfigError."""
    wrong = []
    for section, values, known, reserved in sections:
        try:
            check_trainer(path, values, known, reserved, section)
        except ConfigError as e:
            wrong.append(str(e))
    if wrong:
        raise ConfigError("\n".join(wrong))


def _lacking(folder: Path) -> list[str]:
    """Name the devices that a recipe's files name and this machine lacks; the files passed the check."""
    readers = dag.files(recipe.read(folder / recipe.FILE), dag.blocks())
    configs = {
        name: load(folder / name, importlib.import_module(f"tasks.{stage}").Config) for name, stage in readers.items()
    }
    return [message for name, config in sorted(configs.items()) for message in devices.lacking(folder / name, config)]


def fingerprint(folder: Path) -> str:
    """Hash of all that the check depends on."""
    state = hashlib.sha256(" ".join(f"{name}={version(name)}" for name in PACKAGES).encode())
    made = [path for path in (DATA / artifact.MANIFEST, BASE / artifact.MANIFEST) if path.exists()]
    package = Path(__file__).parents[1]
    code = {path.relative_to(package): path for path in sorted(package.rglob("*.py"))}
    inputs = {
        path: path
        for path in (Path("dvc.yaml"), *sorted(folder.glob("**/*.yaml")), *sorted(folder.glob("*.py")), *made)
    }
    for name, path in (inputs | code).items():
        content = artifact.sha256(path) if path.is_file() else kind(path)  # the check itself names what is no file
        state.update(f"{name} {content}\n".encode())
    return state.hexdigest()


def main() -> None:
    """Run as a command. Exits 0, or 2 with every error on standard error."""
    parser = argparse.ArgumentParser(prog="python -m tasks.check.recipe")
    parser.add_argument("recipe", type=Path, help="recipe folder, e.g. params/tiny")
    folder = parser.parse_args().recipe
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name, value in OFFLINE_AND_QUIET.items():
        os.environ.setdefault(name, value)
    passed = artifact.STATE / "checked" / folder.name
    try:
        _require(folder)
        state = fingerprint(folder)
        for notice in needs.notices(recipe.read(folder / recipe.FILE)):
            log.warning("warning: %s: %s", folder / recipe.FILE, notice)
        if kind(passed) == "a file" and passed.read_text() == state:
            return
        errors = check(folder) or _lacking(folder)
    except PolmError as e:
        errors = [str(e)]
    except OSError as e:
        errors = [refusal(e) or f"{folder}: {e}"]
    if errors:
        log.error("%s", "\n".join(errors))
        sys.exit(2)
    with contextlib.suppress(OSError):  # a check that cannot be remembered is made again
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.write_text(state)


if __name__ == "__main__":
    main()
