"""The index's own process: what it finds, what becomes of questions while it closes, and of one that dies."""

from pathlib import Path

import psutil
import pytest

from flows.serving.retrieval import Retriever
from tasks.stage.errors import ModelError
from tests.support.rag import DOCUMENTS, FORM, make_rag


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rag(tmp_path_factory.mktemp("version") / "rag")


def test_what_was_asked_before_it_closes_is_answered(rag: Path, chat_onnx: Path) -> None:
    retriever = Retriever(rag, chat_onnx / "fp32", threads=1)
    assert retriever.form == FORM and retriever.alive
    asked = [retriever.ground("Where does Bexot live?", 1) for _ in range(20)]
    retriever.close()
    assert {found.result(0).sources[0].text for found in asked} == {DOCUMENTS["people/bexot.txt"]}
    assert not retriever.alive
    with pytest.raises(ModelError, match="no longer served"):
        retriever.ground("Where does Bexot live?", 1)


def test_a_process_that_dies_fails_its_questions_and_no_others(rag: Path, chat_onnx: Path) -> None:
    retriever = Retriever(rag, chat_onnx / "fp32", threads=1)
    process = psutil.Process(retriever._process.pid or 0)
    process.suspend()
    asked = retriever.ground("Where does Bexot live?", 1)
    process.kill()
    with pytest.raises(ModelError, match="died; ask again"):
        asked.result(60)
    retriever.close()


def test_a_folder_without_an_index_is_said(tmp_path: Path, chat_onnx: Path) -> None:
    with pytest.raises(ModelError, match="index"):
        Retriever(tmp_path, chat_onnx / "fp32", threads=1)
