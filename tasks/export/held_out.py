"""Held-out prompts that PyTorch and every exported form are given: read from a file, or of whatever rows there are."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.compression import available
from tasks.compression.available import Taken
from tasks.export.settings import Parity
from tasks.stage.artifact import read_jsonl
from tasks.stage.data_folder import shards
from tasks.stage.errors import DataError


def read(file: str | None, data: Path, *, media: bool) -> list[Taken]:
    """Read the rows that prompts are drawn from, each with its `prompt`.

    Args:
        file: of the data artifact; None takes the held-out prompts that there are.
        data: data artifact.
        media: whether the model sees or hears, and wants rows with pictures or sounds where no file is named.

    Raises:
        DataError: no such file or no such row, or a row without `prompt`, `question` or `messages`.
    """
    if file is None:
        return available.prompts(data, media=media)
    pairs = zip(conversations(data / file), read_jsonl(data / file), strict=True)
    return [Taken(file, {**row, "prompt": conversation}) for conversation, row in pairs]


def conversations(path: Path) -> list[list[dict[str, str]]]:
    """Read the conversations of a file, each up to its last answer.

    Raises:
        DataError: no such file, or a row without `prompt`, `question` or `messages`.
        ArtifactError: its rows are in shards.
    """
    if not path.is_file() and not shards(path):
        raise DataError(f"{path}: no such file; set `parity.rows` to a file that the data stage writes")
    found = []
    for number, row in enumerate(read_jsonl(path), 1):
        if "prompt" in row:
            found.append(row["prompt"])
        elif "question" in row:
            found.append([{"role": "user", "content": row["question"]}])
        elif "messages" in row and row["messages"][-1]["role"] == "assistant":
            found.append(row["messages"][:-1])
        else:
            raise DataError(f"{path}:{number}: neither 'prompt', 'question' nor 'messages' with an answer at the end")
    return found


def draw(
    prompts: Sequence[Any],
    rows: Sequence[Taken],
    parity: Parity,
    seed: int,
    *,
    longest: int,
    context: int,
    data: Path,
) -> tuple[list[Any], dict[str, Any]]:
    """Draw among the prompts that leave room for an answer in the context.

    Args:
        prompts: each with its tokens, `ids`.
        rows: what they were rendered from.
        parity: how many are wanted, and of which file.
        seed: of the draw.
        longest: tokens of the longest answer.
        context: tokens of the model's context.
        data: data artifact, for messages.

    Returns:
        The prompts, and the record of their rows (`available.record`).

    Raises:
        DataError: too few prompts; of rows that nobody named, none.
    """
    pairs = zip(prompts, rows, strict=True)
    candidates = [(prompt, row) for prompt, row in pairs if len(prompt.ids) + longest <= context]
    wanted = parity.prompts if parity.rows is not None else max(1, min(parity.prompts, len(candidates)))
    if len(candidates) < wanted:
        place = data if parity.rows is None else data / parity.rows
        raise DataError(
            f"{place}: {len(candidates)} of {len(prompts)} prompts leave room for {longest} tokens "
            f"in the context of {context}; {wanted} are wanted: lower `parity.prompts`, or the tokens of an answer"
        )
    drawn = random.Random(seed).sample(candidates, wanted)
    record = available.record([row for _, row in drawn], by_default=parity.rows is None)
    return [prompt for prompt, _ in drawn], record
