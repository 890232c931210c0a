"""llm-compressor's modifiers: built from a recipe, run over a model, and kept quiet.

llm-compressor calls each algorithm a modifier and describes it by a pydantic model; a recipe names modifiers and gives
their fields verbatim:

    GPTQModifier: {targets: [Linear], ignore: ["re:.*lm_head"], scheme: W4A16}
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.models.folder import save_model
from tasks.stage.errors import ConfigError

log = logging.getLogger("polm")
Modifiers = Mapping[Any, Mapping[str, Any]]
"""Name of a modifier's class to its fields, in the order in which they run."""
RESERVED = ("index", "group", "start", "end", "update")
"""Fields of every modifier that are for training with a schedule, which these stages do not do."""
_NOISE = ("No accelerator available", "Failed to find config._name_or_path")
"""Beginnings of warnings without news: a recipe for a CPU runs on a CPU, and a model is written without the path it
came from."""


def modifier_class(name: str) -> type[Any]:
    """Return llm-compressor's class of that name; the stages' configurations list the names allowed."""
    with _quiet():
        from llmcompressor.modifiers import pruning, quantization, transform

    modifier: type[Any] = {**vars(pruning), **vars(quantization), **vars(transform)}[name]
    return modifier


def fields(name: str) -> type[Any]:
    """Return the fields of a modifier as a dataclass, the form that `check_trainer` compares a mapping with."""
    return make_dataclass(name, [(field, Any) for field in modifier_class(name).model_fields])


def build(modifiers: Modifiers, section: str, where: Path) -> list[Any]:
    """Make the modifiers.

    Raises:
        ConfigError: naming file and key of a field that a modifier refuses, or a combination that it cannot do.
    """
    instances = []
    for name, values in modifiers.items():
        try:
            instances.append(modifier_class(name)(**values))
        except ValidationError as e:
            lines = [
                f"{where}: {'.'.join([section, name, *map(str, error['loc'])])}: {error['msg']}" for error in e.errors()
            ]
            raise ConfigError("\n".join(lines)) from None
        except (TypeError, ValueError) as e:
            raise ConfigError(f"{where}: {section}.{name}: {e}") from None
    return instances


def oneshot(
    model: Any, tokenizer: Any, modifiers: list[Any], rows: list[list[int]] | None, section: str, where: Path
) -> None:
    """Run the modifiers over the model, in place.

    Args:
        model: with weights in full precision; afterwards its `save_pretrained` writes compressed-tensors.
        tokenizer: its tokenizer.
        modifiers: from `build`.
        rows: token ids, from `calibration.draw`; None where no modifier needs any.
        section: of the recipe, for the message.
        where: the recipe file.

    Raises:
        ConfigError: llm-compressor refuses the combination, e.g. a group size that does not divide a matrix's width.
    """
    with _quiet():
        from llmcompressor.entrypoints.oneshot import oneshot as run

    calibration: dict[str, Any] = {}
    if rows is not None:
        from datasets import Dataset

        calibration = {
            "dataset": Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}),
            "num_calibration_samples": len(rows),
            "batch_size": 1,
            "max_seq_length": max(map(len, rows)),
            "shuffle_calibration_samples": False,
        }
    try:
        with _quiet(), _unpinned():
            run(model=model, tokenizer=tokenizer, recipe=modifiers, **calibration)
    except ValueError as e:
        raise ConfigError(f"{where}: {section}: llm-compressor refuses it: {e}") from None


@contextlib.contextmanager
def _unpinned() -> Iterator[None]:
    """Pin no memory where there is no accelerator to pin it for: llm-compressor 0.14 tries to for AWQ, which raises."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    pin = IntermediatesCache.pin_memory
    if not torch.accelerator.is_available():
        setattr(IntermediatesCache, "pin_memory", lambda *_args, **_kwargs: None)  # noqa: B010  a method, to mypy
    try:
        yield
    finally:
        setattr(IntermediatesCache, "pin_memory", pin)  # noqa: B010


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Write a model that `oneshot` has quantised as a compressed-tensors folder.

    llm-compressor puts a `recipe.yaml` beside it, in which enumerations are Python objects: no safe reader takes it, an
    unsafe one runs it. It is removed; `dump` says the same.
    """
    with _quiet():
        save_model(model, tokenizer, out)
    (out / "recipe.yaml").unlink(missing_ok=True)


def dump(modifiers: list[Any]) -> dict[str, dict[str, Any]]:
    """Return each modifier's fields as JSON, by its name: the recipe's, and the values that `oneshot` gave the rest."""
    return {type(each).__name__: each.model_dump(mode="json", exclude=set(RESERVED)) for each in modifiers}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep llm-compressor's bars and notices out of the log, and put each of its warnings in once."""
    from loguru import logger

    logged: set[str] = set()

    def warn(message: Any) -> None:
        text = message.record["message"]
        if message.record["level"].name in ("WARNING", "ERROR") and not text.startswith(_NOISE) and text not in logged:
            logged.add(text)
            log.warning("llm-compressor: %s", text)

    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import llmcompressor  # noqa: F401  it sets up its own logger when it is imported

        logger.remove()
        sink = logger.add(warn, level="WARNING")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded modules")
                yield
        finally:
            logger.remove(sink)
