"""`polm lineage`: from an answer to the rows of data, out of what the registry keeps."""

import shutil
from pathlib import Path

import pytest

from flows.registry import lineage, lineage_tree, promotion
from flows.tracking import client
from tasks.stage import artifact
from tasks.stage.errors import GateError
from tests.support.traces import ANSWER, NAME, trace


@pytest.fixture
def project(tracking: Path, promotable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose champion is dpo."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tracking / ".polm/dvc"))
    shutil.copytree(promotable, tracking, dirs_exist_ok=True, symlinks=True)
    promotion.promote("dpo")
    return tracking


def test_a_version_leads_down_to_its_rows(project: Path) -> None:
    digests = {name: artifact.read_manifest(Path("artifacts", name)).digest for name in ("data", "models/sft")}
    rows = artifact.sha256(Path("artifacts/data/sft/train.jsonl"))
    for what in ("champion", "1", "v1", f"{NAME}/1"):
        found = lineage.find(what)
        assert (found.version, found.tags["model"]) == ("1", "dpo")
    assert [step.manifest.stage for step in found.steps] == ["export_onnx", "dpo", "sft", "base", "data"]
    assert found.steps[2].manifest.digest == digests["models/sft"]
    assert found.steps[-1].manifest.digest == digests["data"]
    assert found.steps[-1].manifest.files["sft/train.jsonl"] == rows
    assert found.data is not None and found.data["sources"]["greetings"]["licence"] == "CC0-1.0"


def test_an_answer_leads_to_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace(ANSWER)
    found = lineage.find(ANSWER)
    assert found.answer is not None and found.answer["text"] == "It is 5."
    assert lineage.find(found.answer["trace"]) == found
    lineage_tree.show(ANSWER)
    said = capsys.readouterr().out
    rows = artifact.read_manifest(Path("artifacts/data")).files["sft/train.jsonl"]
    for part in ("What is 2 + 3?", f"{NAME} v1  dpo, int8", f"sft/train.jsonl  sha256 {rows[:12]}  1 rows, CC0-1.0"):
        assert part in said
    assert "greetings  file hi.jsonl, CC0-1.0, sha256 abab" in said


def test_it_can_be_told_when_the_workspace_has_moved_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("artifacts")
    lineage_tree.show("champion")
    said = capsys.readouterr().out
    assert "sft/train.jsonl  sha256" in said and "neither in MLflow nor in the workspace" in said


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("v7", "there is no version 7"),
        ("chapion", r"'chapion' is no version, alias \(there are: candidate, champion\)"),
        ("tr-0", "tr-0: no such answer"),
        ("chatcmpl-' or 1=1", "no such answer"),
    ],
)
def test_what_is_not_there(project: Path, what: str, message: str) -> None:
    with pytest.raises(GateError, match=message):
        lineage.find(what)


def test_a_version_that_was_not_promoted_says_what_it_lacks(project: Path) -> None:
    api = client.client()
    made = api.get_model_version(NAME, "1")
    source = (project / "artifacts").as_uri()
    api.create_model_version(NAME, source=source, tags={"model": "dpo"})
    api.create_model_version(NAME, source=source, tags=dict(made.tags))
    other = api.create_run(api.create_experiment("other")).info.run_id
    api.create_model_version(NAME, source=source, run_id=other, tags=dict(made.tags))
    for version, message in {"2": "v2 has no tag 'form'", "3": "v3 has no MLflow run", "4": "no evidence/mani"}.items():
        with pytest.raises(GateError, match=message):
            lineage.find(version)
    trace(ANSWER, "7")
    with pytest.raises(GateError, match="there is no version 7"):
        lineage.find(ANSWER)


def test_traces_of_others_are_no_answers(project: Path) -> None:
    import mlflow

    span = mlflow.start_span_no_context(name="x", tags={"model_version": "1"})
    span.end()
    mlflow.flush_trace_async_logging()
    with pytest.raises(GateError, match="no such answer"):
        lineage.find(span.trace_id)


def test_stages_without_runs_are_shown_as_such(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client.client().rename_experiment(client.client().get_experiment_by_name(NAME).experiment_id, "moved")
    lineage_tree.show("champion")
    assert "no MLflow run in this store" in capsys.readouterr().out
