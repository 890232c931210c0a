"""The files of a recipe under check: each read and validated by itself, so that one that is wrong hides no other."""

import contextlib
import importlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasks.ingestion.sources import GeneratorSource, find_generator
from tasks.rewards.composite import RewardSpec, named_graders
from tasks.stage import devices, recipe, value_types
from tasks.stage.config import StageConfig, check_trainer, load
from tasks.stage.errors import ConfigError, DataError, PolmError
from tasks.stage.trainer_config import TrlConfig, Verbatim

C = TypeVar("C", bound=StageConfig)


@dataclass(frozen=True)
class Recipe:
    """A recipe, as far as its files could be read."""

    graph: recipe.Graph
    readers: Mapping[str, str]
    """File name to the stage module that reads it, without the package."""
    configs: Mapping[str, StageConfig]
    """File name to what it holds; files that are wrong by themselves are left out."""

    @property
    def folder(self) -> Path:
        """Folder of the recipe, e.g. `params/tiny`."""
        return self.graph.path.parent

    def of(self, file: str, kind: type[C]) -> C | None:
        """Return what a file holds; None for one that is not there, is wrong, or is of another stage."""
        config = self.configs.get(file)
        return config if isinstance(config, kind) else None

    def trained(self) -> Iterator[tuple[str, Any, TrlConfig]]:
        """Yield file, stage module and content of each file that is trained by."""
        for file, config in sorted(self.configs.items()):
            if isinstance(config, TrlConfig):
                yield file, importlib.import_module(f"tasks.{self.readers[file]}"), config


def load_all(graph: recipe.Graph, readers: Mapping[str, str]) -> tuple[Recipe, list[str]]:
    """Read every file of a recipe that is there.

    Returns:
        The recipe, and what is wrong with files by themselves, a message for each such file. A file whose graders,
        generators or devices alone are wrong is part of the recipe, so that what else is wrong with it is found too.
    """
    errors, configs = [], {}
    for name, module in sorted(readers.items()):
        path = graph.path.parent / name
        if not path.exists() and not path.is_symlink():
            errors.append(f"{path}: no such file, and {graph.path} needs it")
            continue
        try:
            config, refused, named = _read(path, module)
        except PolmError as e:
            errors.append(str(e))
            continue
        if refused or named:
            errors.append("\n".join([*refused, *named]))
        if not refused:
            configs[name] = config
    return Recipe(graph, readers, configs), errors


def check_file(path: Path, module_name: str) -> StageConfig:
    """Read one file as its stage does. Raises ConfigError with every error that can be found in it by itself."""
    config, refused, named = _read(path, module_name)
    if refused or named:
        raise ConfigError("\n".join([*refused, *named]))
    return config


def _read(path: Path, module_name: str) -> tuple[StageConfig, list[str], list[str]]:
    """Read one file by its schema.

    Returns:
        Its content; what is wrong with keys and values that are passed on; and with names of what lies elsewhere.

    Raises:
        ConfigError: it does not fit the schema.
    """
    try:
        module = importlib.import_module(f"tasks.{module_name}")
    except ModuleNotFoundError as e:
        raise ConfigError(f"dvc.yaml: a stage runs tasks.{module_name}, which cannot be imported ({e})") from None
    config: StageConfig = load(path, module.Config)
    refused = [*_verbatim(path, config.verbatim(module.trainer_class()))] if isinstance(config, TrlConfig) else []
    named = [*dict.fromkeys(_names(path, config))]
    try:
        devices.check_names(path, config)
    except ConfigError as e:
        named.append(str(e))
    return config, refused, named


def _names(path: Path, config: StageConfig) -> Iterator[str]:
    """Say which graders and generators that a file names are not there, or take other options."""
    for _, value in config:
        sections = value if isinstance(value, Mapping) else {}
        specs = {name: section for name, section in sections.items() if isinstance(section, RewardSpec)}
        if specs:  # to list all graders takes longer than to read the file
            try:
                named_graders(specs, path)
            except ConfigError as e:
                yield str(e)
        for name, source in sections.items():
            if isinstance(source, GeneratorSource):
                yield from check_generator(path, name, source)


def check_generator(path: Path, name: str, source: GeneratorSource) -> Iterator[str]:
    """Say what is wrong with the generator of a source, by its name and the file at `path` that names it."""
    try:
        function = find_generator(source, path.parent)
    except DataError as e:
        yield f"{path}: sources.{name}: {e}"
        return
    except ConfigError as e:
        yield str(e)
        return
    for option, expected in value_types.wrong(source.options, function):
        yield f"{path}: sources.{name}.options.{option} is {source.options[option]!r}; expected {expected}"


def _verbatim(path: Path, sections: list[Verbatim]) -> Iterator[str]:
    """Say what does not fit of what is passed on as it is: `trainer:` to TRL, `peft:` to PEFT."""
    for section, values, known, reserved in sections:
        try:
            check_trainer(path, values, known, reserved, section)
        except ConfigError as e:
            yield str(e)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep to themselves what libraries log about a training, or a task, that does not take place."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
