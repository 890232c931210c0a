"""Questions of a data artifact: which are used, and what becomes of the others."""

from pathlib import Path
from typing import Any

import pytest

from tasks.retrieval import questions
from tasks.stage import artifact
from tasks.stage.errors import DataError
from tests.support.indexed import chunks_of

CHUNKS = chunks_of([("a/1", "Ada lives in Olvar."), ("a/1", "Olvar is old. Ada lives in Olvar."), ("a/2", "Nothing.")])
ROW = {"id": "1", "question": "Where?", "document": "a/1", "quote": "Ada lives in Olvar."}


def written(path: Path, *rows: Any) -> Path:
    artifact.write_jsonl(path, list(rows))
    return path


def test_rows_of_both_kinds_are_read_and_counted(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    trained = {"id": "2", "prompt": prompt, "document": "a/2", "quote": "Nothing."}
    path = written(
        tmp_path / "q.jsonl",
        ROW,
        trained,
        {**ROW, "id": "3", "document": "", "quote": ""},
        {**ROW, "id": "4", "document": "a/2"},
        {**ROW, "id": "5", "document": "a/9"},
    )
    found, counts = questions.read(path, CHUNKS)
    assert [(one.id, one.text, one.gold) for one in found] == [("1", "Where?", (0, 1)), ("2", "Who?", (2,))]
    assert counts == {"read": 5, "used": 2, "without an answer": 1, "in no chunk": 2}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "1", "question": "Where?"}], r"q\.jsonl:1: a question needs"),
        ([ROW, ROW], r"q\.jsonl:2: id 1 was there before"),
        ([{**ROW, "quote": ""}], "no question has an answer in the chunks"),
    ],
)
def test_files_that_cannot_be_used_are_named(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        questions.read(written(tmp_path / "q.jsonl", *rows), CHUNKS)


def test_no_such_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        questions.read(questions.test_file(tmp_path, "facts"), CHUNKS)
