"""Calibration rows of a method of compression: drawn from the training split alone, and recorded in its artifact."""

import hashlib
import json
import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.compression import available
from tasks.models.chat_template import render
from tasks.stage.config import Strict
from tasks.stage.errors import ConfigError
from tasks.training import rows as training_rows

log = logging.getLogger("polm")


class Calibration(Strict):
    """Rows of the training split that a method takes the inputs of the weights from."""

    dataset: str | None
    """Set of the data artifact with whole conversations, e.g. `sft`; null takes the training rows that there are."""
    rows: int = Field(ge=1)
    """Number of rows, drawn with the seed; of rows that nobody named, at most so many."""
    max_length: int = Field(ge=1)
    """Longest row, in tokens; the rest is cut off."""


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row's turns, of whichever shape: `messages`, or `prompt` and `completion`."""
    return list(row["messages"]) if "messages" in row else [*row["prompt"], *row["completion"]]


def _drawn(settings: Calibration, data: Path, seed: int, where: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Draw rows; returns them and, where no set is named, the files that they are from with the rows of each."""
    if settings.dataset is None:
        there = available.answers(data, "train")
        drawn = random.Random(seed).sample(there, min(settings.rows, len(there)))
        return [one.row for one in drawn], available.record(drawn, by_default=True)["files"]
    candidates = training_rows.read(data, settings.dataset, "train")
    if len(candidates) < settings.rows:
        raise ConfigError(
            f"{where}: calibration.rows is {settings.rows}, and {settings.dataset} has {len(candidates)} training rows"
        )
    return random.Random(seed).sample(candidates, settings.rows), {}


def draw(
    settings: Calibration, tokenizer: Any, data: Path, seed: int, where: Path
) -> tuple[list[list[int]], dict[str, Any]]:
    """Draw and tokenize the calibration rows.

    Returns:
        Token ids of each row, and a record of them: `dataset` (null where none was named, and then `files`, the rows of
        each), `split`, the number of `rows`, how many were `cut`, the tokens of the `longest` before that, `tokens` in
        all, and `sha256` of the rows' ids and texts, one JSON line each.

    Raises:
        DataError: no such set.
        ConfigError: it has fewer rows than are asked for.
    """
    rows, files = _drawn(settings, data, seed, where)
    texts = [render(tokenizer, conversation(row), add_generation_prompt=False, chat_template_args={}) for row in rows]
    digest = hashlib.sha256()
    for row, text in zip(rows, texts, strict=True):
        digest.update(json.dumps([row["id"], text], ensure_ascii=False).encode() + b"\n")
    uncut = tokenizer(texts, add_special_tokens=False)["input_ids"]
    ids = [row[: settings.max_length] for row in uncut]
    lengths = [len(row) for row in uncut]
    cut = sum(length > settings.max_length for length in lengths)
    if cut:
        log.warning(
            "warning: %d of %d calibration rows cut (longest %d tokens, calibration.max_length %d)",
            cut,
            len(ids),
            max(lengths),
            settings.max_length,
        )
    record = {
        "dataset": settings.dataset,
        **({"files": files} if settings.dataset is None else {}),
        "split": "train",
        "rows": len(ids),
        "cut": cut,
        "longest": max(lengths),
        "tokens": sum(map(len, ids)),
        "sha256": digest.hexdigest(),
    }
    return ids, record
