"""Talking to a reader in this process: the champion with its index, or a model of the workspace with one."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.serve import make_registry
from flows.registry.version import RAG
from flows.serving import chat, reading
from flows.tracking import client
from tasks.retrieval.prompts import PROMPT
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, GateError
from tests.support.rag import DOCUMENTS, FORM, make_index, make_rag
from tests.support.serving import MESSAGES

QUESTION = "Where does Bexot live?"
Make = Any


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    folder = make_index(tmp_path_factory.mktemp("made") / "index")
    make_artifact(folder, stage="rag_index")
    return folder


@pytest.fixture
def project(tracking: Path, index: Path, chat_model: Path, make_artifact: Make) -> Path:
    """A workspace with a reader on PyTorch, the index that it was evaluated with, and a model of words."""
    (tracking / "params").mkdir(exist_ok=True)
    (tracking / "params/recipe.yaml").write_text("recipe: tiny\n")
    (tracking / "dvc.yaml").write_text("stages: {}\n")
    shutil.copytree(index, "artifacts/indexes/index")
    for name in ("reader", "words"):
        shutil.copytree(chat_model, f"artifacts/models/{name}")
        Path(f"artifacts/metrics/{name}").mkdir(parents=True)
    model = artifact.read_manifest(Path("artifacts/models/reader")).digest
    folder = Path("artifacts/metrics/reader")
    artifact.write_json(folder / "results.json", {"model": "reader", "tasks": {}})
    artifact.write_json(folder / PROMPT, FORM.model_dump())
    digest = artifact.read_manifest(Path("artifacts/indexes/index")).digest
    make_artifact(folder, stage="evaluate_rag", model=model, index=digest, data="d" * 64)
    make_artifact(Path("artifacts/metrics/words"), stage="evaluate", model=model, data="d" * 64)
    return tracking


def opened(model: str | None, index: str | None = None) -> Any:
    return reading.reader(model, index, max_new_tokens=6, temperature=0.0)


def test_a_model_of_the_workspace_reads_from_the_index_it_was_evaluated_with(project: Path, chat_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with opened("reader") as reader:
        text = "".join(reader.ask(QUESTION))
        assert reader.grounded.sources[0].text == DOCUMENTS["people/bexot.txt"]
        prompt = reader.grounded.prompt
        assert "artifacts/models/reader" in reader.title and "artifacts/indexes/index" in reader.title
        assert list(reader.ask("And now?")), "the conversation goes on"
        assert [turn["content"] for turn in reader._conversation.messages][:2] == [QUESTION, text], "without passages"
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = AutoModelForCausalLM.from_pretrained(chat_model).generate(**ids, max_new_tokens=6, do_sample=False)
    assert text == tokenizer.decode(said[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_another_index_may_be_named_and_one_that_is_gone_is_said(project: Path) -> None:
    shutil.move("artifacts/indexes/index", "artifacts/indexes/other")
    with opened("reader", "other") as reader:
        assert "artifacts/indexes/other" in reader.title
    shutil.rmtree("artifacts/indexes/other")
    for model, index, message in (
        ("reader", None, "was evaluated with the index .* and there is none"),
        ("reader", "othe", "no index 'othe' in artifacts/indexes"),
        ("words", None, "'words' was not evaluated with an index; there are: reader"),
        ("raeder", None, "did you mean 'reader'"),
        (None, "other", "name a reader with --model too"),
        (None, None, "no champion yet"),
    ):
        with pytest.raises(GateError, match=message), opened(model, index):
            pass


def test_the_champion_reads_from_the_index_it_was_promoted_with(
    tracking: Path, chat_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_registry(tracking, [chat_onnx / "fp32"])
    with pytest.raises(GateError, match=r"polm-tiny v1 \(model1, int8\) has no index"), opened(None):
        pass
    make_rag(tracking / "version1/artifacts" / RAG)
    client.client().set_model_version_tag("polm-tiny", "1", "index", "1" * 64)
    lines = iter([QUESTION, "/reset", "/quit"])
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(console, "input", lambda *_: next(lines))
    with opened(None) as reader:
        chat.converse(reader, Path(), title=reader.title, console=console)
        assert reader._conversation.messages == []
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "polm-tiny v1 (model1, int8)" in said
    assert "[1] people/bexot.txt › People › bexot  0–21, CC0-1.0" in said and "Bexot lives in Olvar." in said


def test_options_that_exclude_each_other_are_refused(project: Path) -> None:
    settings: Any = {"max_new_tokens": 1, "temperature": 0.0}
    words = [MESSAGES[0]["content"]]
    with pytest.raises(ConfigError, match="leave --folder"):
        chat.main(words, Path("x"), [], [], rag=True, model=None, index=None, **settings)
    with pytest.raises(ConfigError, match="add --rag"):
        chat.main(words, None, [], [], rag=False, model="reader", index=None, **settings)
