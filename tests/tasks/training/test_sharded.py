"""Rows in shards: the same rows, in the same order and form, as from JSONL, and on the disk."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import sft
from tasks.export import held_out
from tasks.ingestion import parquet_shards
from tasks.ingestion.values import Columns
from tasks.retrieval import questions
from tasks.stage.artifact import write_jsonl
from tasks.stage.errors import ArtifactError
from tasks.training import rows
from tests.support.sharded import in_shards
from tests.support.supervised import configured


def conversation(i: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": f"A{i}"}]
    return {"id": f"{i:016x}", "messages": turns, "source": "mine"}


def completion(i: int) -> dict[str, Any]:
    turns = conversation(i)["messages"]
    return {"id": f"{i:016x}", "prompt": turns[:1], "completion": turns[1:], "source": "mine"}


def graded(i: int) -> dict[str, Any]:
    extra = {"digits": i} if i % 3 != 2 else {}
    turns = conversation(i)["messages"]
    return {"id": f"{i:016x}", "prompt": turns[:1], "answer": f"A{i}", **extra, "source": "mine"}


def both(folder: Path, name: str, made: list[dict[str, Any]], turns: set[str]) -> tuple[Path, Path]:
    """Two data artifacts of the same rows: in JSONL, and in shards of four."""
    kinds = Columns()
    for row in made:
        kinds.add({k: v for k, v in row.items() if k not in {*turns, "id", "source"}}, "here")
    for split in ("train", "validation"):
        write_jsonl(folder / "lines" / name / f"{split}.jsonl", made)
        lines = [json.dumps(row) for row in made]
        parquet_shards.write(folder / "shards" / name / split, [lines], parquet_shards.schema(turns, kinds), 4)
    assert len(list((folder / "shards" / name / "train").iterdir())) == 3
    return folder / "lines", folder / "shards"


@pytest.mark.parametrize(
    ("make", "turns"),
    [
        (conversation, {"messages"}),
        (completion, {"prompt", "completion"}),
        (lambda i: conversation(i) if i % 2 else completion(i), {"messages", "prompt", "completion"}),
    ],
)
def test_what_is_learnt_is_the_same(tmp_path: Path, make: Any, turns: set[str]) -> None:
    lines, shards = both(tmp_path, "sft", [make(i) for i in range(10)], turns)
    assert list(rows.read(shards, "sft", "train")) == rows.read(lines, "sft", "train")
    learnt = rows.examples(shards, "sft", "train")
    assert learnt.to_list() == rows.examples(lines, "sft", "train").to_list()
    assert learnt.cache_files, "its rows are in memory"


def test_a_validation_split_in_lines_decides_on_the_form_of_shards(tmp_path: Path) -> None:
    lines, shards = both(tmp_path, "sft", [conversation(i) for i in range(10)], {"messages"})
    for folder in (lines, shards):
        shutil.rmtree(folder / "sft/validation", ignore_errors=True)
        write_jsonl(folder / "sft/validation.jsonl", [completion(1), completion(2)])
    wanted = rows.examples(lines, "sft", "train").to_list()
    assert set(wanted[0]) == {"prompt", "completion"}
    assert rows.examples(shards, "sft", "train").to_list() == wanted


def test_prompts_keep_the_columns_that_a_grader_looks_at(tmp_path: Path) -> None:
    lines, shards = both(tmp_path, "prompts", [graded(i) for i in range(10)], {"prompt"})
    assert (
        rows.prompt_dataset(shards, "prompts", "train").to_list()
        == rows.prompt_dataset(lines, "prompts", "train").to_list()
    )
    read = rows.read(shards, "prompts", "train")
    assert "digits" not in read[2]
    assert read[1]["digits"] == 1
    assert read[:2] == [read[0], read[1]]
    assert len(read) == 10


@pytest.mark.parametrize("read_file", [held_out.conversations, lambda path: questions.read(path, [])])
def test_a_reader_of_lines_says_that_rows_are_in_shards(
    sums_data: Path, tmp_path: Path, read_file: Callable[[Path], Any]
) -> None:
    shards = in_shards(sums_data, tmp_path / "sums")
    with pytest.raises(ArtifactError, match=r"its rows are in shards, .* take `shards` out of the recipe's data\.yaml"):
        read_file(shards / "sft/train.jsonl")


def test_training_from_shards_leaves_the_bytes_of_training_from_lines(
    make_run: Callable[..., Any], chat_model: Path, sums_data: Path, tmp_path: Path
) -> None:
    config = configured(sft, assistant_only_loss=True)
    made = []
    for name, data in (("lines", sums_data), ("shards", in_shards(sums_data, tmp_path / "sums"))):
        run = make_run(name)
        sft.main(config, run, model=chat_model, data=data)
        files = ("model.safetensors", "metrics.json", "audit.json", "supervision.json")
        made.append({file: (run.out / file).read_bytes() for file in files if (run.out / file).exists()})
    assert {"model.safetensors", "metrics.json"} <= set(made[0])
    assert made[0] == made[1]
