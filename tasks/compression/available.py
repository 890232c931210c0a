"""Rows of whatever sets a recipe has, for settings that name none: prompts to compare on, whole answers to learn from.

    prompts      the `prompts` sets; else the questions of the evaluation sets; else the first turns of the user in the
                 `sft` sets; else the prompts of `preferences` or `feedback`
    answers      the `sft` sets; else the chosen sides of `preferences`; else the good answers of `feedback`; else, of
                 held-out rows alone, the answers of the evaluation sets

The first that has rows is taken, and no other. Prompts and held-out answers are of validation and test rows: they only
ever measure. What changes weights (calibration) is of training rows, among which no evaluation set is.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from tasks.stage import artifact
from tasks.stage.data_folder import shards
from tasks.stage.errors import DataError

Row = Mapping[str, Any]
MEDIA = ("images", "audio")
"""Columns of a row that name its pictures and sounds."""


class Taken(NamedTuple):
    """A row, and where it is from."""

    file: str
    """File of the data artifact, e.g. `eval/faq.jsonl`."""
    row: dict[str, Any]
    """The row with `prompt` (a conversation that ends with the user), or with `prompt` and `completion`, or with
    `messages`; its other columns are kept."""


def prompts(data: Path, *, media: bool = False) -> list[Taken]:
    """Take the held-out prompts that there are. Rows of several files take turns, so that the first are of all.

    Args:
        data: data artifact.
        media: whether rows with pictures or sounds are wanted, and no others; else those without.

    Raises:
        DataError: no set of the artifact has such a row.
    """
    readers: tuple[tuple[str, Callable[[Row], dict[str, Any]]], ...] = (
        ("prompts*/validation.jsonl", dict),
        ("eval/*.jsonl", _asked),
        ("sft*/validation.jsonl", _opening),
        ("preferences*/validation.jsonl", _pair),
        ("feedback*/validation.jsonl", dict),
    )
    for pattern, read in readers:
        if found := _of(data, pattern, read, lambda row: _shows(row) == media):
            return found
    kind = "with pictures or sounds" if media else "without pictures and sounds"
    looked = ", ".join(pattern for pattern, _ in readers)
    raise DataError(f"{data}: no held-out prompt {kind} in {looked}; add an `eval:` set to data.yaml")


def answers(data: Path, split: str) -> list[Taken]:
    """Take the whole conversations that there are, without pictures and sounds.

    Args:
        data: data artifact.
        split: `train`, or `validation`, for which evaluation sets count too.

    Raises:
        DataError: no set of the artifact has such a row.
    """
    readers: list[tuple[str, Callable[[Row], dict[str, Any]]]] = [
        (f"sft*/{split}.jsonl", dict),
        (f"preferences*/{split}.jsonl", _chosen),
        (f"feedback*/{split}.jsonl", dict),
    ]
    if split != "train":
        readers.append(("eval/*.jsonl", _answered))
    for pattern, read in readers:
        if found := _of(data, pattern, read, lambda row: not _shows(row) and row.get("label", True) is True):
            return found
    raise DataError(
        f"{data}: no {split} row with an answer in {', '.join(pattern for pattern, _ in readers)}; add an `sft` set to "
        f"data.yaml"
    )


def record(taken: Sequence[Taken], *, by_default: bool) -> dict[str, Any]:
    """Say which rows were taken: `files`, each with its number of rows, `rows` in all, and whether `by_default`."""
    counts = Counter(one.file for one in taken)
    return {"files": dict(sorted(counts.items())), "rows": len(taken), "by_default": by_default}


def _of(data: Path, pattern: str, read: Callable[[Row], dict[str, Any]], wanted: Callable[[Row], bool]) -> list[Taken]:
    """Read the wanted rows of all files of a pattern, by turns. Raises ArtifactError where one of them is in shards."""
    by_file = []
    sharded = {path for folder in data.glob(pattern.removesuffix(".jsonl")) if shards(path := Path(f"{folder}.jsonl"))}
    for path in sorted(sharded.union(data.glob(pattern)), key=lambda path: (len(path.parts[-2]), path)):
        name = path.relative_to(data).as_posix()
        by_file.append([Taken(name, read(row)) for row in artifact.read_jsonl(path) if wanted(row)])
    return [one for one in chain.from_iterable(zip_longest(*by_file)) if one is not None]


def _shows(row: Row) -> bool:
    return any(row.get(column) for column in MEDIA)


def _asked(row: Row) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": row["question"]}], **row}


def _answered(row: Row) -> dict[str, Any]:
    return {**_asked(row), "completion": [{"role": "assistant", "content": str(row["answer"])}]}


def _opening(row: Row) -> dict[str, Any]:
    """Keep a conversation up to its first answer, which becomes `answer`."""
    turns = [*row["messages"]] if "messages" in row else [*row["prompt"], *row["completion"]]
    first = next(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    kept = {key: value for key, value in row.items() if key not in ("messages", "completion")}
    return {"answer": turns[first]["content"], **kept, "prompt": turns[:first]}


def _pair(row: Row) -> dict[str, Any]:
    return {"answer": _sides(row)[1][-1]["content"], **row, "prompt": _sides(row)[0]}


def _chosen(row: Row) -> dict[str, Any]:
    prompt, completion = _sides(row)
    kept = {key: value for key, value in row.items() if key not in ("chosen", "rejected")}
    return {**kept, "prompt": prompt, "completion": completion}


def _sides(row: Row) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Part a pair's chosen side into prompt and answer; both sides may begin with the prompt."""
    if "prompt" in row:
        return list(row["prompt"]), list(row["chosen"])
    return list(row["chosen"][:-1]), list(row["chosen"][-1:])
