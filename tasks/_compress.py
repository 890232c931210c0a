"""What pruning and quantising share: llm-compressor, the rows it is calibrated on, and how a model is measured.

llm-compressor calls each algorithm a modifier and describes it by a pydantic model; a recipe names modifiers and gives
their fields verbatim:

    GPTQModifier: {targets: [Linear], ignore: ["re:.*lm_head"], scheme: W4A16}

Calibration rows come from the training split only, one a batch: its own collator cuts the rows of a batch to the
shortest, and padding would count as text.
"""

import contextlib
import hashlib
import io
import json
import logging
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tasks import _rows
from tasks._config import Strict, suggest
from tasks._errors import ConfigError, DataError
from tasks._models import save_model
from tasks._stage import Run

log = logging.getLogger("polm")
Modifiers = Mapping[Any, Mapping[str, Any]]
"""Name of a modifier's class to its fields, in the order in which they run."""
RESERVED = ("index", "group", "start", "end", "update")
"""Fields of every modifier that are for training with a schedule, which these stages do not do."""
_NOISE = ("No accelerator available", "Failed to find config._name_or_path")
"""Beginnings of warnings that say what is no news: a recipe for a CPU runs on a CPU, and a model is written without the
path it came from."""


class HeldOut(Strict):
    """Validation rows on which a model is compared with the one it was made from."""

    answers: str
    """Set whose written answers give the loss, e.g. `sft`."""
    answer_rows: int = Field(ge=1)
    """Most rows of it, from the first."""
    prompts: str
    """Set whose prompts are answered, e.g. `prompts`."""
    prompt_rows: int = Field(ge=1)
    """Most rows of it, from the first."""
    max_new_tokens: int = Field(ge=1)
    """Longest answer, in tokens."""


class Calibration(Strict):
    """Which rows of the training split the algorithms look at."""

    dataset: str
    """Set of the data artifact with whole conversations, e.g. `sft`."""
    rows: int = Field(ge=1)
    """Rows, drawn with the seed."""
    max_length: int = Field(ge=1)
    """Longest row, in tokens; the rest is cut off."""


def method_name(run: Run, prefix: str, methods: Mapping[str, Any]) -> str:
    """The method of a matrix's stage: what follows `prefix` in the artifact's name. Raises ConfigError."""
    if not run.name.startswith(prefix):
        raise ConfigError(
            f"{run.params_file}: the last part of --out is '{run.name}'; it must be {prefix} and a method"
        )
    name = run.name.removeprefix(prefix)
    if name not in methods:
        raise ConfigError(f"{run.params_file}: methods has no '{name}'{suggest(name, methods)}")
    return name


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row's turns, of whichever shape: `messages`, or `prompt` and `completion`."""
    return list(row["messages"]) if "messages" in row else [*row["prompt"], *row["completion"]]


def calibration_rows(
    settings: Calibration, tokenizer: Any, data: Path, seed: int, where: Path
) -> tuple[Any, dict[str, Any]]:
    """Draw and tokenize the calibration rows.

    Returns:
        A `datasets.Dataset` of `input_ids` and `attention_mask`, and what is recorded of it: `dataset`, `split`,
        `rows`, `tokens`, and `sha256` of the rows' ids and texts, one JSON line each.

    Raises:
        DataError: no such set.
        ConfigError: it has fewer rows than are asked for.
    """
    from datasets import Dataset

    found = _rows.read(data, settings.dataset, "train")
    if len(found) < settings.rows:
        raise ConfigError(
            f"{where}: calibration.rows is {settings.rows}, and {settings.dataset} has {len(found)} training rows"
        )
    drawn = random.Random(seed).sample(found, settings.rows)
    texts = [tokenizer.apply_chat_template(conversation(row), tokenize=False) for row in drawn]
    digest = hashlib.sha256()
    for row, text in zip(drawn, texts, strict=True):
        digest.update(json.dumps([row["id"], text], ensure_ascii=False).encode() + b"\n")
    ids = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=settings.max_length)["input_ids"]
    record = {
        "dataset": settings.dataset, "split": "train", "rows": len(ids), "tokens": sum(map(len, ids)),
        "sha256": digest.hexdigest(),
    }  # fmt: skip
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}), record


def modifier_class(name: str) -> type[Any]:
    """llm-compressor's class of that name; which names there may be, the stages' configurations say."""
    with _quiet():
        from llmcompressor.modifiers import pruning, quantization, transform

    found: type[Any] = {**vars(pruning), **vars(quantization), **vars(transform)}[name]
    return found


def fields(name: str) -> type[Any]:
    """The fields of a modifier as a dataclass, which is what `check_trainer` compares a mapping with."""
    return make_dataclass(name, [(field, Any) for field in modifier_class(name).model_fields])


def build(modifiers: Modifiers, section: str, where: Path) -> list[Any]:
    """Make the modifiers.

    Raises:
        ConfigError: naming file and key of a field that a modifier refuses, or a combination that it cannot do.
    """
    made = []
    for name, values in modifiers.items():
        try:
            made.append(modifier_class(name)(**values))
        except ValidationError as e:
            wrong = [(".".join([section, name, *map(str, error["loc"])]), error["msg"]) for error in e.errors()]
            raise ConfigError("\n".join(f"{where}: {key}: {message}" for key, message in wrong)) from None
        except (TypeError, ValueError) as e:
            raise ConfigError(f"{where}: {section}.{name}: {e}") from None
    return made


def oneshot(model: Any, tokenizer: Any, modifiers: list[Any], rows: Any, section: str, where: Path) -> None:
    """Run the modifiers over the model, in place.

    Args:
        model: whole weights; afterwards its `save_pretrained` writes compressed-tensors.
        tokenizer: its tokenizer.
        modifiers: from `build`.
        rows: from `calibration_rows`, or None where no modifier needs any.
        section: of the recipe, for the message.
        where: the recipe file.

    Raises:
        ConfigError: llm-compressor refuses the combination, e.g. a group size that does not divide a matrix's width.
    """
    with _quiet():
        from llmcompressor.entrypoints.oneshot import oneshot as run

    calibrated: dict[str, Any] = {}
    if rows is not None:
        calibrated = {"dataset": rows, "num_calibration_samples": len(rows), "batch_size": 1}
        calibrated |= {"max_seq_length": max(map(len, rows["input_ids"])), "shuffle_calibration_samples": False}
    try:
        with _quiet(), _unpinned():
            run(model=model, tokenizer=tokenizer, recipe=modifiers, **calibrated)
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
    """Write a model that `oneshot` has quantised as a compressed-tensors folder; `recipe.yaml` in it says how."""
    with _quiet():
        save_model(model, tokenizer, out)


def answer_loss(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How likely a model finds the written answers.

    Args:
        model: on its device.
        tokenizer: whose chat template marks what the assistant wrote (`_chat.mark_generation`).
        rows: conversations.

    Returns:
        `nats_per_token` over the assistant's tokens, its exponential `perplexity`, and how many `tokens` there were.

    Raises:
        DataError: not one token of the assistant's.
    """
    import torch

    total, count = 0.0, 0
    model.eval()
    for row in rows:
        told = tokenizer.apply_chat_template(
            conversation(row), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = torch.tensor([told["input_ids"]], device=model.device)
        mask = torch.tensor(told["assistant_masks"], device=model.device)[1:].bool()
        with torch.inference_mode():
            scores = model(ids).logits[0, :-1].float().log_softmax(-1)
        chosen = scores.gather(-1, ids[0, 1:, None])[:, 0][mask]
        total -= float(chosen.double().sum())
        count += len(chosen)
    if not count:
        raise DataError("the held-out rows have no token of the assistant's to measure the loss on")
    mean = total / count
    return {"nats_per_token": round(mean, 6), "perplexity": round(math.exp(min(mean, 50.0)), 4), "tokens": count}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep llm-compressor's bars and notices out of the log, and put each of its warnings in once."""
    from loguru import logger

    said: set[str] = set()

    def warn(message: Any) -> None:
        text = message.record["message"]
        if message.record["level"].name in ("WARNING", "ERROR") and not text.startswith(_NOISE) and text not in said:
            said.add(text)
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
