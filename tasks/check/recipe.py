"""Check every file of a recipe against the stage that reads it, before anything runs.

    python -m tasks.check.recipe params/tiny

Which file belongs to which stage is read from `dvc.yaml`. All errors of all files are shown at once (exit code 2). The
check needs the `trainer:` classes of TRL, whose import takes seconds, so a recipe that passed is not checked again
until its files, the stages' code, `dvc.yaml` or the packages change: `.polm/checked/<recipe>` keeps what passed. Where
the recipe's data and base model are made already, their rows are held against the recipe too (`tasks/check/rows.py`).
"""

import argparse
import contextlib
import difflib
import hashlib
import importlib
import logging
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path

from tasks.check.rows import BASE, DATA, check_rows
from tasks.stage import artifact
from tasks.stage.config import check_trainer, load, read_yaml
from tasks.stage.errors import ConfigError, PolmError, kind, refusal
from tasks.stage.lifecycle import OFFLINE_AND_QUIET
from tasks.stage.trainer_config import TrlConfig, Verbatim

log = logging.getLogger("polm")
_COMMAND = re.compile(r"-m\s+tasks\.(\w+)\s+params/\$\{recipe\}/(\S+\.yaml)")
PACKAGES = ("pydantic", "transformers", "trl")
"""Packages whose version decides what a recipe may say."""


def check(recipe: Path) -> list[str]:
    """Check one recipe folder.

    Args:
        recipe: the folder, e.g. `params/tiny`.

    Returns:
        What is wrong, one message for each file that is; empty when all is well.

    Raises:
        ConfigError: there is no such recipe, or `dvc.yaml` cannot be read.
    """
    _require(recipe)
    readers = _readers()
    for extra in sorted({p.name for p in recipe.glob("*.yaml")} - set(readers)):
        near = difflib.get_close_matches(extra, readers, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        log.warning("warning: %s: no stage in dvc.yaml reads this file%s", recipe / extra, hint)
    errors = []
    for name, module in sorted(readers.items()):
        try:
            _check_file(recipe / name, module)
        except PolmError as e:
            errors.append(str(e))
    return errors or check_rows(recipe, readers)


def _require(recipe: Path) -> None:
    if recipe.is_dir():
        return
    known = sorted(p.name for p in recipe.parent.glob("*") if p.is_dir())
    near = difflib.get_close_matches(recipe.name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known) or 'none'}"
    raise ConfigError(f"{recipe}: no such recipe; {hint} (a new one: `cp -r params/tiny {recipe}`)")


def _readers() -> dict[str, str]:
    """File name in a recipe to the stage module that reads it."""
    readers = {}
    for name, stage in read_yaml(Path("dvc.yaml"))["stages"].items():
        found = _COMMAND.search(stage["cmd"])
        if not found:
            raise ConfigError(
                f"dvc.yaml: stages.{name}.cmd does not begin `python -m tasks.NAME params/${{recipe}}/FILE.yaml`"
            )
        readers[found[2]] = found[1]
    return readers


def _check_file(path: Path, module_name: str) -> None:
    """Raises ConfigError with every error that can be found in one file."""
    try:
        module = importlib.import_module(f"tasks.{module_name}")
    except ModuleNotFoundError as e:
        raise ConfigError(f"dvc.yaml: a stage runs tasks.{module_name}, which cannot be imported ({e})") from None
    config = load(path, module.Config)
    if isinstance(config, TrlConfig):
        _check_verbatim(path, config.verbatim(module.trainer_class()))


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


def fingerprint(recipe: Path) -> str:
    """Hash of all that the check depends on."""
    state = hashlib.sha256(" ".join(f"{name}={version(name)}" for name in PACKAGES).encode())
    made = [path for path in (DATA / artifact.MANIFEST, BASE / artifact.MANIFEST) if path.exists()]
    package = Path(__file__).parents[1]
    code = {path.relative_to(package): path for path in sorted(package.rglob("*.py"))}
    inputs = {path: path for path in (Path("dvc.yaml"), *sorted(recipe.glob("*.yaml")), *made)}
    for name, path in (inputs | code).items():
        content = artifact.sha256(path) if path.is_file() else kind(path)  # the check itself names what is no file
        state.update(f"{name} {content}\n".encode())
    return state.hexdigest()


def main() -> None:
    """Run as a command. Exits 0, or 2 with every error on standard error."""
    parser = argparse.ArgumentParser(prog="python -m tasks.check.recipe")
    parser.add_argument("recipe", type=Path, help="recipe folder, e.g. params/tiny")
    recipe = parser.parse_args().recipe
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name, value in OFFLINE_AND_QUIET.items():
        os.environ.setdefault(name, value)
    passed = artifact.STATE / "checked" / recipe.name
    try:
        _require(recipe)
        state = fingerprint(recipe)
        if kind(passed) == "a file" and passed.read_text() == state:
            return
        errors = check(recipe)
    except PolmError as e:
        errors = [str(e)]
    except OSError as e:
        errors = [refusal(e) or f"{recipe}: {e}"]
    if errors:
        log.error("%s", "\n".join(errors))
        sys.exit(2)
    with contextlib.suppress(OSError):  # a check that cannot be remembered is made again
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.write_text(state)


if __name__ == "__main__":
    main()
