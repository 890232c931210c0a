"""Rows of a data artifact's sets, as the stages read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.multimodal.images import IMAGES, decoded, has_images
from tasks.stage import artifact
from tasks.stage.data_folder import shards, split_file
from tasks.stage.errors import DataError
from tasks.training.sharded import ShardedRows, opened, temporary_file

LEARNT = ("messages", "prompt", "chosen", "rejected", "completion", "label", "text", IMAGES)
"""TRL's columns; the others are for people, for graders and for lineage."""


def read(data: Path, name: str, split: str) -> Sequence[dict[str, Any]]:
    """Read the rows of one split of the set `name`, e.g. `sft:rationales`: whole, or where they are in shards, lazily.

    Raises:
        DataError: the recipe's data stage wrote no such set, or an empty one.
    """
    path = split_file(data, name, split)
    if files := shards(path):
        return ShardedRows(files)
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

    Rows with pictures become `prompt` and `completion` too, one for each answer: TRL has no mask of the assistant's
    tokens for them. So do all rows where only some have pictures, or only those of the other split. The pictures are
    decoded when a row is read.
    """
    from datasets import Dataset

    if files := shards(split_file(data, name, split)):
        return _sharded_examples(files, data, name, split)
    rows = [{k: v for k, v in row.items() if k in LEARNT} for row in read(data, name, split)]
    other = split_file(data, name, "validation" if split == "train" else "train")
    if has_images(rows) or (other.exists() and has_images(artifact.read_jsonl(other))):
        pieces = [{**piece, IMAGES: row.get(IMAGES) or []} for row in rows for piece in answers(row)]
        for piece in pieces:
            piece.pop("label", None)  # of a picture, and no judgement
        return decoded(Dataset.from_list(pieces), data)
    rows = [_without_images(row) for row in rows]
    validation = split_file(data, name, "validation")
    validation_rows = artifact.read_jsonl(validation) if split == "train" and validation.exists() else []
    if any("messages" in row for row in rows) and any("completion" in row for row in [*rows, *validation_rows]):
        rows = [parted(row) for row in rows]
    return Dataset.from_list(rows)


def _sharded_examples(files: list[Path], data: Path, name: str, split: str) -> Any:
    """Make the `datasets.Dataset` of `examples` out of shards, which stay on the disk. Raises DataError for pictures.

    Rows become `prompt` and `completion` where some of a split are.
    """
    dataset = opened(tuple(files))
    if IMAGES in dataset.column_names:
        raise DataError(
            f"{files[0].parent}: rows with pictures are not read from shards; leave `shards` out of data.yaml"
        )
    others = [file for split in ("train", "validation") for file in shards(split_file(data, name, split))[:1]]
    columns = {column for file in others for column in opened((file,)).column_names}
    validation = split_file(data, name, "validation")
    if split == "train" and validation.exists():  # a split of few rows is JSONL beside one in shards
        columns |= {column for row in artifact.read_jsonl(validation) for column in row}
    dataset = dataset.select_columns([column for column in dataset.column_names if column in LEARNT])
    if not {"messages", "completion"} <= columns or "messages" not in dataset.column_names:
        return dataset
    return dataset.map(_parted, remove_columns=["messages"], cache_file_name=temporary_file())


def _parted(row: dict[str, Any]) -> dict[str, Any]:
    """Part a row of a data set, in which the columns of the other form are null."""
    return parted({key: value for key, value in row.items() if value is not None})


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


def answers(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Write a row of `messages`, or of `prompt` and `completion`, as one row for each answer that is learnt.

    Other rows (pairs) stay as they are.
    """
    whole = parted(row)
    if "completion" not in whole:
        return [whole]
    turns, first = [*whole["prompt"], *whole["completion"]], len(whole["prompt"])
    extra = {key: value for key, value in whole.items() if key not in ("prompt", "completion")}
    places = [i for i in range(first, len(turns)) if turns[i]["role"] == "assistant"]
    return [{**extra, "prompt": turns[:i], "completion": [turns[i]]} for i in places]


def prompt_dataset(data: Path, name: str, split: str) -> Any:
    """Make a `datasets.Dataset` to answer: `prompt` and every column a grader may look at. Raises as `read`."""
    from datasets import Dataset

    if files := shards(split_file(data, name, split)):
        dataset = opened(tuple(files))
        return dataset.select_columns([c for c in dataset.column_names if c not in ("id", "source")])
    rows = [{k: v for k, v in row.items() if k not in ("id", "source")} for row in read(data, name, split)]
    if has_images(rows):
        return decoded(Dataset.from_list([{**row, IMAGES: row.get(IMAGES) or []} for row in rows]), data)
    return Dataset.from_list([_without_images(row) for row in rows])


def _without_images(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the column, empty in all rows of a set of words: TRL would take them for rows with pictures."""
    return {key: value for key, value in row.items() if key != IMAGES}
