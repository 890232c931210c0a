"""The evaluation of a reader with its index, from the documents on, with a small random model as the reader."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import evaluate_rag
from tasks.retrieval.answered import CONDITIONS
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.errors import ArtifactError, ConfigError
from tests.support import retrieval_chain as chain

pytestmark = pytest.mark.slow
Make = Callable[..., artifact.Manifest]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    """A working directory with passages, index and rows."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        chain.recipe()
        chunks = chain.passages()
        retriever, data = chain.untrained(chunks, make_artifact), chain.questions(make_artifact)
        chain.grounded(chain.index(chunks, retriever, data), data)
        chain.index(chunks, retriever, data, "other", dimensions=16)
    return folder


@pytest.fixture
def work(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that the test may spoil, as the working directory."""
    shutil.copytree(built, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def evaluate(model: Path, name: str = "reader", index: str = "index", **changes: Any) -> Path:
    values = chain.settings("evaluate_grounded", resamples=200, batch_size=8, **changes)
    folders = {"model": model, "index": Path("artifacts/indexes", index), "data": Path("artifacts/media/grounded")}
    return chain.made(evaluate_rag, "evaluate_grounded.yaml", values, f"metrics/{name}", **folders)


def test_every_condition_is_asked_and_counted_alike_twice(work: Path, chat_model: Path) -> None:
    folder = evaluate(chat_model)
    results = artifact.read_json(folder / "results.json")["tasks"]["facts"]
    rows = artifact.read_jsonl(Path("artifacts/media/grounded/eval/facts.jsonl"))
    samples = artifact.read_jsonl(folder / "samples" / "facts.jsonl")
    assert [sample["id"] for sample in samples] == [row["id"] for row in rows]
    assert set(results["rag"]["conditions"]) == set(CONDITIONS) == set(results["groups"]["condition"])
    assert sum(figures["rows"] for figures in results["rag"]["conditions"].values()) == len(rows)
    for condition, figures in results["rag"]["conditions"].items():
        theirs = results["groups"]["condition"][condition]["exact_match"]["value"]
        assert figures["exact_match"]["value"] == pytest.approx(theirs)
    assert results["rag"]["planted"]["unplaced"] == 0, "every instruction is found in its prompt"
    assert results["rag"]["planted"]["difference"]["questions"] == results["rag"]["planted"]["rows"]
    assert (folder / "prompt.json").read_bytes() == Path("artifacts/media/grounded/prompt.json").read_bytes()
    again = evaluate(chat_model, "again")
    for name in ("results.json", "samples/facts.jsonl"):
        assert (again / name).read_text().replace("again", "reader") == (folder / name).read_text()


def test_the_legs_of_the_index_are_scored_on_the_test_questions(work: Path, chat_model: Path) -> None:
    retrieval = artifact.read_json(evaluate(chat_model) / "results.json")["tasks"]["facts"]["retrieval"]
    tests = artifact.read_jsonl(Path("artifacts/media/facts/eval/facts.jsonl"))
    assert retrieval["questions"] == len({row["question"] for row in tests})
    assert set(retrieval["legs"]) == {"lexical", "dense", "fused"}
    lexical = retrieval["legs"]["lexical"]["recall@10"]
    assert 0.5 < lexical["value"] <= 1.0, "questions name the people whose documents they ask about"


def test_a_sample_says_what_it_was_shown(work: Path, chat_model: Path) -> None:
    samples = artifact.read_jsonl(evaluate(chat_model) / "samples" / "facts.jsonl")
    shown = [sample for sample in samples if sample["condition"] == "gold"]
    assert shown
    for sample in shown:
        (passage,) = sample["passages"]
        assert passage["gold"]
        assert passage["text"] in sample["question"]
        assert sample["asked"] in sample["question"]


def test_rows_of_another_index_are_refused(work: Path, chat_model: Path) -> None:
    with pytest.raises(ArtifactError, match=r"grounded: its passages come from the index \w{12}…, and .*indexes/other"):
        evaluate(chat_model, index="other")


def test_rows_that_the_index_does_not_find_are_refused(work: Path, chat_model: Path, make_artifact: Make) -> None:
    folder = Path("artifacts/media/grounded")
    manifest = artifact.read_manifest(folder)
    file = folder / "eval" / "facts.jsonl"
    rows = artifact.read_jsonl(file)
    at = next(i for i, row in enumerate(rows) if row["condition"] == "retrieved")
    known = [row["id"] for row in json.loads(json.dumps(rows))]
    assert len(known) == len(set(known))
    rows[at]["passages"] = rows[at]["passages"][::-1]
    artifact.write_jsonl(file, rows)
    make_artifact(folder, stage="raft", **manifest.inputs)
    evaluate(chat_model, "turned")
    rows[at]["passages"] = [*rows[at]["passages"][:-1], "0" * 16]
    artifact.write_jsonl(file, rows)
    make_artifact(folder, stage="raft", **manifest.inputs)
    with pytest.raises(ArtifactError, match=rf"facts.jsonl:{at + 1}: shows the passages .* make the rows anew"):
        evaluate(chat_model, "spoilt")


def test_settings_that_cannot_work_are_named(work: Path, chat_model: Path) -> None:
    with pytest.raises(ConfigError, match="without_attack is 'retreived'; did you mean 'retrieved'"):
        evaluate(chat_model, without_attack="retreived")
    task = Path("params/tiny/rag/facts.yaml")
    task.write_text(task.read_text().replace("metric: f1", "metric: f2"))
    with pytest.raises(ConfigError, match=r"rag/facts.yaml: metric_list has no f1; name a grader that gives"):
        evaluate(chat_model)


def test_seconds_are_measured_and_in_no_artifact(work: Path, chat_model: Path) -> None:
    values = chain.settings("evaluate_grounded", resamples=200, batch_size=8)
    from tasks.stage.lifecycle import Run
    from tasks.stage.progress import Progress

    folders = {"model": chat_model, "index": Path("artifacts/indexes/index"), "data": Path("artifacts/media/grounded")}
    manifests = {name: artifact.verify(folder) for name, folder in folders.items()}
    Path("out").mkdir()
    params = Path("params/tiny/evaluate_grounded.yaml")
    run = Run(Path("out"), params, "reader", Path("c"), manifests, Progress(None), main_process=True)
    evaluate_rag.main(parse(params, values, evaluate_rag.Config), run, **folders)
    for part in ("embed", "lexical", "dense", "fuse", "search", "read"):
        assert run.measured[f"{part}_seconds_per_question"] >= 0
    assert run.measured["search_seconds_per_question"] > run.measured["embed_seconds_per_question"]
    assert not [path for path in Path("out").rglob("*.json") if "seconds" in path.read_text()]
