"""What a recipe passes on to TRL and PEFT, given to their own classes: they refuse what does not fit together.

The classes need neither model nor GPU. What they would look for on the machine, half precision and sharding, is set
aside here; `tasks/stage/devices.py` and `polm doctor` look at the machine. TRL compares some names only once training
runs (`loss_type`): those that its trainer compares are read from the trainer's source.
"""

import ast
import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tasks.check.files import Recipe, quiet
from tasks.stage import launch
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import TrlConfig, Verbatim
from tasks.training import trainer as training

OF_THE_MACHINE = {"bf16": False, "fp16": False, "tf32": None, "deepspeed": None, "fsdp": None, "fsdp_config": None}
"""Keys of `trainer:` that are set aside, to what they are set to."""
NAMED = ("loss_type", "scale_rewards", "importance_sampling_level")
"""Keys whose values the trainer compares, and the config class does not."""
DEFAULT_RATE = 1e-3
"""Where the learning rate stands elsewhere in the file, which is looked at by itself."""


@dataclass(frozen=True)
class Place:
    """What `training.arguments` uses of a stage's run."""

    params_file: Path
    checkpoints: Path
    launched: launch.Processes


def check(under_check: Recipe) -> Iterator[str]:
    """Build what each training file describes."""
    for file, module, config in under_check.trained():
        path = under_check.folder / file
        try:
            processes = launch.processes(config.launch, path)
            launch.check_fit(config, processes, path)
        except ConfigError as e:
            yield str(e)
            continue
        for section in config.verbatim(module.trainer_class()):
            if section.section != "trainer":
                yield from _peft(path, section)
        try:
            _build(path, config, module.trainer_class(), processes)
        except ConfigError as e:
            yield str(e)
        yield from _names(path, config, module.trainer_class())


def _build(path: Path, config: TrlConfig, config_class: type[Any], processes: launch.Processes) -> None:
    """Build the arguments as the stage does. Raises ConfigError.

    One process stands for all of them: it has the batch of all.
    """
    aside: dict[str, Any] = {key: value for key, value in OF_THE_MACHINE.items() if key in config.trainer}
    batch = config.trainer.get("per_device_train_batch_size")
    if isinstance(batch, int) and processes.processes > 1:
        aside["per_device_train_batch_size"] = batch * processes.processes
    lightened = config.model_copy(update={"trainer": {**config.trainer, **aside, "use_cpu": True}})
    place = Place(path, Path("checkpoints"), processes)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        training.arguments(config_class, lightened, cast(Run, place))


def _peft(path: Path, section: Verbatim) -> Iterator[str]:
    """Build a PEFT configuration; other sections are the stages' own to read."""
    if not section.config_class.__module__.startswith("peft."):
        return
    try:
        section.config_class(task_type="CAUSAL_LM", **section.values)
    except (TypeError, ValueError) as e:
        yield f"{path}: {section.section}: {e} ({section.config_class.__name__})"


def _names(path: Path, config: TrlConfig, config_class: type[Any]) -> Iterator[str]:
    """Say which names are none that the trainer compares."""
    for key in NAMED:
        if key not in config.trainer:
            continue
        known = compared(config_class.__module__, key)
        given = config.trainer[key] if isinstance(config.trainer[key], list) else [config.trainer[key]]
        for name in given:
            if known and isinstance(name, str) and name not in known:
                yield f"{path}: trainer.{key} is '{name}'{suggest(name, known)} ({config_class.__name__})"
    types, weights = config.trainer.get("loss_type"), config.trainer.get("loss_weights")
    if isinstance(types, list) and isinstance(weights, list) and len(types) != len(weights):
        yield (
            f"{path}: trainer.loss_weights has {len(weights)} numbers, and trainer.loss_type {len(types)} losses; "
            f"write one weight a loss"
        )


@functools.cache
def compared(config_module: str, key: str) -> frozenset[str]:
    """List the texts that a trainer's source compares a setting with.

    Args:
        config_module: module of its config class, `trl.trainer.dpo_config`; the trainer is in `….dpo_trainer` beside.
        key: name of the setting.

    Returns:
        The texts; empty where there is no such module, or it compares none.
    """
    name = config_module.removesuffix("_config") + "_trainer"
    spec = importlib.util.find_spec(name) if config_module.endswith("_config") else None
    if spec is None or spec.origin is None:
        return frozenset()
    source = inspect.getsource(sys.modules[name]) if name in sys.modules else Path(spec.origin).read_text("utf-8")
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and _is(node.left, key):
            texts = [text for other in node.comparators for text in ast.walk(other)]
            found |= {text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)}
    return frozenset(found)


def _is(node: ast.expr, key: str) -> bool:
    return (isinstance(node, ast.Name) and node.id == key) or (isinstance(node, ast.Attribute) and node.attr == key)
