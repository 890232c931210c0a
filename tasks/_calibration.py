"""Rows that a method of compression looks at: of the training split only, and recorded in what it writes."""

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks import _rows
from tasks._config import Strict
from tasks._errors import ConfigError


class Calibration(Strict):
    """Which rows of the training split the algorithms look at."""

    dataset: str
    """Set of the data artifact with whole conversations, e.g. `sft`."""
    rows: int = Field(ge=1)
    """Rows, drawn with the seed."""
    max_length: int = Field(ge=1)
    """Longest row, in tokens; the rest is cut off."""


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row's turns, of whichever shape: `messages`, or `prompt` and `completion`."""
    return list(row["messages"]) if "messages" in row else [*row["prompt"], *row["completion"]]


def draw(
    settings: Calibration, tokenizer: Any, data: Path, seed: int, where: Path
) -> tuple[list[list[int]], dict[str, Any]]:
    """Draw and tokenize the calibration rows.

    Returns:
        Token ids of each row, and what is recorded of them: `dataset`, `split`, `rows`, `tokens`, and `sha256` of the
        rows' ids and texts, one JSON line each.

    Raises:
        DataError: no such set.
        ConfigError: it has fewer rows than are asked for.
    """
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
    return ids, record
