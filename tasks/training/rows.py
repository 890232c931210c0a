"""Rows of a data artifact's sets, as the stages read them."""

from pathlib import Path
from typing import Any

from tasks.stage import artifact
from tasks.stage.data_folder import split_file
from tasks.stage.errors import DataError

LEARNT = ("messages", "prompt", "chosen", "rejected", "completion", "label", "text")
"""TRL's columns; the others are for people, for graders and for lineage."""


def read(data: Path, name: str, split: str) -> list[dict[str, Any]]:
    """Read the rows of one split of the set `name`, e.g. `sft:rationales`, whole.

    Raises:
        DataError: the recipe's data stage wrote no such set, or an empty one.
    """
    path = split_file(data, name, split)
    if not path.exists():
        raise DataError(f"{path}: no such data set; add `{name}` to the recipe's data.yaml")
    rows = artifact.read_jsonl(path)
    if not rows:
        raise DataError(f"{path}: empty; the report in {data}/report.json says where its rows went")
    return rows


def examples(data: Path, name: str, split: str) -> Any:
    """Make a `datasets.Dataset` of TRL's columns to learn from. Raises as `read`.

    Where some rows are `messages` and others `prompt` and `completion`, all become the latter: so they do where only
    the validation split has such rows, for TRL learns from the training rows' form whether prompts carry loss.
    """
    from datasets import Dataset

    rows = [{k: v for k, v in row.items() if k in LEARNT} for row in read(data, name, split)]
    validation = split_file(data, name, "validation")
    validation_rows = artifact.read_jsonl(validation) if split == "train" and validation.exists() else []
    if any("messages" in row for row in rows) and any("completion" in row for row in [*rows, *validation_rows]):
        rows = [parted(row) for row in rows]
    return Dataset.from_list(rows)


def parted(row: dict[str, Any]) -> dict[str, Any]:
    """Write a row of `messages` as `prompt` and `completion`, which begins with the first turn of the assistant.

    A row without `messages` stays as it is.

    The loss is the same: with TRL's `assistant_only_loss` it is on the assistant's turns of the completion.
    """
    if "messages" not in row:
        return row
    messages = row["messages"]
    first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return {"prompt": messages[:first], "completion": messages[first:]}


def prompt_dataset(data: Path, name: str, split: str) -> Any:
    """Make a `datasets.Dataset` to answer: `prompt` and every column a grader may look at. Raises as `read`."""
    from datasets import Dataset

    rows = read(data, name, split)
    return Dataset.from_list([{k: v for k, v in row.items() if k not in ("id", "source")} for row in rows])
