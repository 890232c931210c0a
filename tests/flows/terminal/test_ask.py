"""`polm ask`: the answer and its passages, for a person and for a program."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.serving.conversation import Conversation
from flows.serving.grounded import open_rag
from flows.serving.reading import Reader
from flows.terminal import ask
from tasks.stage.errors import DataError
from tests.support.rag import DOCUMENTS, make_rag

QUESTION = "Where does Bexot live?"


@pytest.fixture(scope="module")
def reader(chat_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """An untrained reader: a number in its answer is a citation here."""
    rag = make_rag(tmp_path_factory.mktemp("version") / "rag", citation=r"(\d)")
    folder = chat_onnx / "fp32"
    return Reader(Conversation(folder, max_new_tokens=30, temperature=0.0), open_rag(rag, folder), "the reader")


def test_a_person_reads_the_answer_and_what_it_is_from(reader: Reader) -> None:
    console = Console(file=io.StringIO(), width=200)
    reader.forget()
    ask.ask(reader, QUESTION, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    reader.forget()
    assert said.startswith("".join(reader.ask(QUESTION)) + "\n")
    assert "[1] people/bexot.txt › People › bexot" in said and DOCUMENTS["people/bexot.txt"] in said


def test_a_program_reads_the_same(reader: Reader) -> None:
    reader.forget()
    found: Any = json.loads(json.dumps(ask.record(reader, QUESTION)))
    assert (found["question"], found["reader"], found["abstained"]) == (QUESTION, "the reader", False)
    assert found["sources"][0]["document"] == "people/bexot.txt"
    assert set(found["cited"]) <= {source["number"] for source in found["sources"]}
    assert found["seconds"]["all"] >= found["seconds"]["embed"] > 0


def test_no_question_is_said(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tracking / "params").mkdir(exist_ok=True)
    (tracking / "params/recipe.yaml").write_text("recipe: tiny\n")
    (tracking / "dvc.yaml").write_text("stages: {}\n")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(DataError, match="there is no question; ask like this: polm ask"):
        ask.main([], None, None, as_json=False, max_new_tokens=8, temperature=0.0)
