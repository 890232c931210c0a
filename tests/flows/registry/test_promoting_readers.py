"""Property: a reader is promoted with the index that it was evaluated with, and with no other; its lineage has both."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.registry import lineage, lineage_tree, promotion
from flows.registry.version import RAG, champion
from flows.tracking import client
from tasks.retrieval.prompts import read_format
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, GateError
from tests.support.promotable import Make
from tests.support.rag import FORM
from tests.support.readers import INDEX, add_readers, commit, digest, evaluated, rag
from tests.support.traces import ANSWER, NAME, trace


@pytest.fixture
def words(tracking: Path, promotable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with models of words alone."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tracking / ".polm/dvc"))
    monkeypatch.setenv("COLUMNS", "250")
    shutil.copytree(promotable, tracking, dirs_exist_ok=True, symlinks=True)
    return tracking


@pytest.fixture
def project(words: Path, make_artifact: Make) -> Path:
    """A project with models of words and two readers."""
    add_readers(make_artifact)
    return words


def test_a_reader_is_registered_with_its_index_and_one_with_words_alone_after_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promotion.promote("reader")
    version = client.client().get_model_version_by_alias(NAME, "champion")
    assert (version.tags["media"], version.tags["index"]) == ("grounded", digest("indexes/index"))
    found = json.loads(version.tags["gates"])
    assert found["quality: facts.exact_match − parent sft > +0"].startswith("no reader before it")
    assert found["grounding: facts from what is retrieved ≥ 0.8"] == "0.8500 [0.8200, 0.8800] (int8)"
    assert found["grounding: F1 of abstaining ≥ 0.8"].startswith("0.9000")
    assert found["grounding: instructions of passages followed ≤ 0.05"].startswith("0.0200")
    assert found["contamination: no evaluation question among the training rows"].startswith("0 of 400 in 3 rows")
    with champion() as (folder, _):
        kept = folder.parent / RAG
        assert read_format(kept) == FORM
        assert (kept / "index/lexical/words").read_text() == "words"
        assert artifact.verify(kept / "index").digest == digest("indexes/index")
    capsys.readouterr()
    promotion.promote("reader")
    assert "nothing to do" in capsys.readouterr().out
    promotion.promote("faithful")
    found = json.loads(client.client().get_model_version_by_alias(NAME, "champion").tags["gates"])
    assert found["quality: facts.exact_match − champion v1 (reader) > +0"].startswith("+0.1000")
    promotion.promote("dpo")
    with champion() as (folder, _):
        assert not (folder.parent / RAG).exists()


def test_a_reader_and_an_index_that_were_not_evaluated_together_are_refused(project: Path, make_artifact: Make) -> None:
    inputs = artifact.read_manifest(INDEX).inputs
    before = digest("indexes/index")
    (INDEX / artifact.MANIFEST).unlink()
    (INDEX / "index.json").write_text("rebuilt")
    make_artifact(INDEX, stage="rag_index", **inputs)
    commit()
    with pytest.raises(GateError) as refused:
        promotion.promote("reader")
    assert f"evaluated with the index {before[:12]}, and there is {INDEX} {digest('indexes/index')[:12]}" in str(
        refused.value
    )
    assert not client.client().search_registered_models()


def test_a_form_that_was_asked_with_another_index_is_refused(project: Path, make_artifact: Make) -> None:
    inputs = artifact.read_manifest(Path("artifacts/metrics/reader_int8")).inputs | {"index": "f" * 64}
    evaluated("reader_int8", make_artifact, 0.85, rag(), **inputs)
    commit()
    with pytest.raises(GateError, match="the served form was evaluated with the index ffffffffffff"):
        promotion.promote("reader")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (rag(retrieved=0.79), r"from what is retrieved ≥ 0.8; found 0.7900 \[0.7600, 0.8200\] \(int8\)"),
        (rag(f1=0.5), r"F1 of abstaining ≥ 0.8; found 0.5000"),
        (rag(followed=0.06), r"followed ≤ 0.05; found 0.0600"),
        ({**rag(), "planted": None}, r"planted.followed of facts was not measured"),
    ],
)
def test_a_reader_below_its_bounds_is_refused(
    project: Path, make_artifact: Make, scores: dict[str, Any], message: str
) -> None:
    inputs = artifact.read_manifest(Path("artifacts/metrics/reader_int8")).inputs
    evaluated("reader_int8", make_artifact, 0.85, scores, **inputs)
    commit()
    with pytest.raises(GateError, match=rf"1 of \d+ gates failed\n  grounding: required .*{message}"):
        promotion.promote("reader")


def test_a_question_that_trains_is_found_behind_its_passages(words: Path, make_artifact: Make) -> None:
    add_readers(make_artifact, taught="Where does NUMBER 7 live?")
    with pytest.raises(GateError, match=r"contamination: .*1 of 400 train too, e.g. “where does number 7 live\?”"):
        promotion.promote("reader")


def test_a_policy_without_bounds_is_refused(project: Path) -> None:
    path = Path("mlflow/gates.yaml")
    text = path.read_text()
    bounds = "  grounding: {retrieved: 0.8, abstention_f1: 0.8, followed: 0.05}\n"
    path.write_text(text.replace(bounds, ""))
    with pytest.raises(ConfigError, match=r"tiny/grounded: missing key 'sight'.*for a reader `grounding`"):
        promotion.promote("reader")
    path.write_text(text.replace(bounds, "  sight: {control: other, gain: 0.3}\n"))
    with pytest.raises(GateError, match="index: required bounds for a reader"):
        promotion.promote("reader")


def test_an_answer_leads_to_its_passages_and_the_models_behind_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promotion.promote("reader")
    source = {
        "number": 1, "chunk": "ab" * 8, "document": "people/0001.txt", "sha256": "cd" * 32, "source": "people",
        "licence": "CC-BY-4.0", "title": ["People"], "start": 3, "end": 24, "text": "Bexot lives in Olvar.",
        "score": 0.5, "ranks": {"lexical": 1, "dense": None}, "parts": {"lexical": 0.5, "dense": 0.0},
    }  # fmt: skip
    trace(ANSWER, retrieval={"sources": [source], "cited": [1], "seconds": {"all": 0.01}})
    found = lineage.find(ANSWER)
    assert found.answer is not None and found.answer["passages"][0]["sha256"] == "cd" * 32
    stages = [step.manifest.stage for step in found.steps]
    assert {"export_onnx", "reader", "raft", "rag_index", "retriever", "rag_chunks", "data", "sft"} <= set(stages)
    assert len(stages) == len({step.name for step in found.steps}), "each once"
    capsys.readouterr()
    lineage_tree.show(ANSWER)
    said = capsys.readouterr().out
    for part in (
        "read 1   people/0001.txt › People 3–24  cited",
        '"Bexot lives in Olvar."',
        "chunk abababababababab, document sha256 cdcdcdcdcdcd, CC-BY-4.0, from people",
        "rag_index    artifacts-indexes-index",
        "retriever    artifacts-models-retriever",
        "documents of artifacts-chunks-passages",
        "people  3 documents, CC-BY-4.0",
        "invented  generator facts.questions, CC0-1.0",
    ):
        assert part in said, said
