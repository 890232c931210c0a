"""Rows as trainers are given them: those with pictures as questions and answers, one for each answer."""

from pathlib import Path
from typing import Any

import pytest

from tasks.stage import artifact
from tasks.training import rows
from tests.support.pictures import write_set

ONE = {"role": "user", "content": "Which?"}
SEVEN = {"role": "assistant", "content": "7."}
NEXT = {"role": "user", "content": "And now?"}
EIGHT = {"role": "assistant", "content": "8."}


@pytest.fixture
def names(pictures_data: Path) -> list[str]:
    """Names of three pictures."""
    return [row["images"][0] for row in artifact.read_jsonl(pictures_data / "sft" / "train.jsonl")[:3]]


def shaped(data: Path, name: str, split: str = "train") -> list[dict[str, Any]]:
    """The rows, with the number of their pictures."""
    found = rows.examples(data, name, split)
    return [{**row, "images": len(row["images"])} for row in found] if "images" in found.column_names else list(found)


def test_an_answer_is_a_row_of_its_own() -> None:
    row = {"messages": [ONE, SEVEN, NEXT, EIGHT]}
    assert rows.answers(row) == [
        {"prompt": [ONE], "completion": [SEVEN]},
        {"prompt": [ONE, SEVEN, NEXT], "completion": [EIGHT]},
    ]
    assert rows.answers({"prompt": [ONE, SEVEN, NEXT], "completion": [EIGHT]}) == [
        {"prompt": [ONE, SEVEN, NEXT], "completion": [EIGHT]}
    ]
    pair = {"prompt": [ONE], "chosen": [SEVEN], "rejected": [EIGHT]}
    assert rows.answers(pair) == [pair]


def test_every_row_has_the_column_where_one_has_pictures(
    pictures_data: Path, workspace: Path, make_artifact: Any, names: list[str]
) -> None:
    made: list[dict[str, Any]] = [
        {"messages": [ONE, SEVEN, NEXT, EIGHT], "images": names[:2], "label": "7"},
        {"messages": [ONE, EIGHT]},
        {"messages": [ONE, SEVEN]},
    ]
    data = write_set(workspace / "data", pictures_data, make_artifact, sft=made)
    assert shaped(data, "sft") == [
        {"prompt": [ONE], "completion": [SEVEN], "images": 2},
        {"prompt": [ONE, SEVEN, NEXT], "completion": [EIGHT], "images": 2},
        {"prompt": [ONE], "completion": [EIGHT], "images": 0},
    ]
    assert shaped(data, "sft", "validation") == [{"prompt": [ONE], "completion": [SEVEN], "images": 0}]


def test_pictures_of_the_held_out_rows_alone_shape_the_training_rows_too(
    pictures_data: Path, workspace: Path, make_artifact: Any, names: list[str]
) -> None:
    """A trainer learns the form from the first training row."""
    made: list[dict[str, Any]] = [{"messages": [ONE, SEVEN]}, {"messages": [ONE, EIGHT], "images": names[:1]}]
    data = write_set(workspace / "data", pictures_data, make_artifact, sft=made)
    assert shaped(data, "sft") == [{"prompt": [ONE], "completion": [SEVEN], "images": 0}]


def test_empty_lists_are_no_pictures(pictures_data: Path, workspace: Path, make_artifact: Any) -> None:
    made = [{"messages": [ONE, SEVEN], "images": []}, {"messages": [ONE, EIGHT], "images": []}]
    data = write_set(workspace / "data", pictures_data, make_artifact, sft=made)
    assert list(rows.examples(data, "sft", "train")) == [{"messages": [ONE, SEVEN]}], "rows of a text model"


def test_prompts_keep_their_columns_and_one_is_read_alone(pictures_data: Path) -> None:
    dataset = rows.prompt_dataset(pictures_data, "prompts", "train")
    raw = artifact.read_jsonl(pictures_data / "prompts" / "train.jsonl")
    assert set(dataset.column_names) == {"prompt", "question", "answer", "kind", "images"}
    assert list(dataset["answer"]) == [row["answer"] for row in raw], "without the pictures"
    assert dataset[2]["images"][0].size == (32, 32)
