"""Questions about documents: copies are no loss, and what is not read, or not found where a row says, is told."""

import json
from pathlib import Path

import pytest

from flows.authoring import documents, questions
from tasks.stage.errors import ConfigError, DataError
from tests.support import manuals

WORDS = 120


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> documents.Documents:
    monkeypatch.chdir(tmp_path)
    manuals.write(tmp_path)
    (tmp_path / "docs/list.xlsx").write_bytes(b"PK")
    (tmp_path / "docs/.hidden").write_text("x")
    return documents.look({"docs": "docs"}, "CC0-1.0")


def rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in Path("questions.jsonl").read_text().splitlines()]


def read(docs: documents.Documents, asked: list[dict[str, str]]) -> questions.Questions:
    Path("asked.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in asked))
    return questions.read(["asked.jsonl"], docs, WORDS, "CC0-1.0")


def test_files_that_are_no_documents_are_counted(docs: documents.Documents) -> None:
    assert dict(docs.others) == {".xlsx": 1}
    assert len(docs.read) == len(manuals.MACHINES)


def test_copies_are_left_out_and_are_no_loss(docs: documents.Documents) -> None:
    asked = read(docs, rows() * 4)
    assert (len(asked.train) + len(asked.test), asked.lost[questions.COPY]) == (60, 180)
    assert asked.example == rows()[0]["question"]
    unanswered = [{"question": f"Why {i}?", "answer": "unicorns"} for i in range(70)]
    with pytest.raises(DataError, match=r"of 310 questions 60 have an answer in the documents \(180 × .*70 × "):
        read(docs, [*rows() * 4, *unanswered])


def test_a_document_that_is_not_there_is_counted(docs: documents.Documents) -> None:
    asked = read(docs, [row | {"document": "lost.md" if i % 3 else "pump.md"} for i, row in enumerate(rows())])
    assert asked.astray == 40


def test_what_is_named_twice_is_refused(docs: documents.Documents) -> None:
    from flows.authoring import command

    with pytest.raises(ConfigError, match="docs stands there twice"):
        command.main("twice", "model", ["docs", "docs", "questions.jsonl"], "rag", None, "CC0-1.0", yes=True)
