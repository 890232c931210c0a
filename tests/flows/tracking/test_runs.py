"""Tracking: what a stage left is what MLflow shows, whoever runs beside it and however it ends."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from flows.tracking import client, logbook, records, stage_run
from flows.tracking import runs as tracked_runs
from tasks.stage import artifact
from tasks.stage.errors import PolmError
from tasks.stage.lifecycle import write_measurements

Make = Callable[..., artifact.Manifest]


@pytest.fixture
def sft(tracking: Path, make_artifact: Make) -> Path:
    """A data artifact and a model trained on it."""
    data, out, recipe = Path("artifacts/data"), Path("artifacts/models/sft"), Path("params/tiny")
    for folder in (data / "sft", out, recipe):
        folder.mkdir(parents=True)
    (data / "sft/train.jsonl").write_text('{"id": "a"}\n')
    digest = make_artifact(data, stage="data").digest
    artifact.write_json(out / "metrics.json", {"eval_loss": 0.5, "steps": 3})
    artifact.write_jsonl(out / "curves.jsonl", [{"step": step, "loss": 3.0 - step} for step in (1, 2, 3)])
    (out / "model.safetensors").write_bytes(b"weights")
    (out / "tokenizer.json").write_text("{}")
    make_artifact(out, stage="sft", data=digest)
    write_measurements(out, {"seconds": 1.5, "tokens_per_second": {"int8": 40}})
    (recipe / "sft.yaml").write_text("seed: 1\nhub_token: abc\ntrainer: {learning_rate: 1e-4, max_new_tokens: 5}\n")
    return out


def event(step: int, **metrics: float) -> dict[str, Any]:
    return {"time": time.time(), "done": step, "total": 3, "label": "", "metrics": metrics}


def history(api: Any, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in api.get_metric_history(run_id, key))


def test_a_finished_stage_is_shown_with_all_it_left(sft: Path) -> None:
    Path("dvc.lock").write_text("stages: {sft: {cmd: x, outs: [{path: artifacts/models/sft, md5: abc.dir}]}}")
    with tracked_runs.pipeline_run("tiny") as pipeline, pipeline.stage("sft", "f" * 16) as run:
        run.log_event(event(1, loss=2.0))
        run.log_event(event(2, loss=1.0))
        run.finish(sft, "FINISHED")
    api = client.client()
    shown = api.get_run(run.run_id)
    assert shown.info.status == api.get_run(pipeline.run_id).info.status == "FINISHED"
    assert shown.data.params == {
        "seed": "1",
        "hub_token": "(hidden)",
        "trainer.learning_rate": "0.0001",
        "trainer.max_new_tokens": "5",
    }
    assert history(api, run.run_id, "loss") == [(1, 2.0), (2, 1.0), (3, 0.0)], "live and read from the file, each once"
    assert shown.data.metrics["final/eval_loss"] == 0.5
    assert shown.data.metrics["measured/tokens_per_second/int8"] == 40
    tags = shown.data.tags
    assert tags["digest"] == artifact.read_manifest(sft).digest
    assert tags["input.data"] == artifact.read_manifest(Path("artifacts/data")).digest
    assert (tags["stage"], tags["version"], tags["recipe"], tags["dvc.out"]) == ("sft", "f" * 16, "tiny", "abc.dir")
    assert {"commit", "dirty"} <= tags.keys() and tags["mlflow.parentRunId"] == pipeline.run_id
    (dataset,) = shown.inputs.dataset_inputs
    assert tags["input.data"].startswith(dataset.dataset.digest)
    assert json.loads(dataset.dataset.source) == {"uri": "artifacts/data"}
    assert [(t.key, t.value) for t in dataset.tags] == [("mlflow.data.context", "training")]
    assert {f.path for f in api.list_artifacts(run.run_id)} == {"curves.jsonl", "manifest.json", "metrics.json"}
    assert client.known_runs()["sft"]["run_id"] == run.run_id


def test_a_failed_stage_keeps_the_end_of_its_log(sft: Path) -> None:
    log = Path("sft.log")
    log.write_text("".join(f"line {n}\n" for n in range(1000)) + "error: no such thing\n")
    with tracked_runs.pipeline_run("tiny") as pipeline:
        with pipeline.stage("sft", "1") as run:
            run.finish(sft, "FAILED", log)
        with pipeline.stage("dpo", "1"):
            pass  # never finished: that is a failure, too
    api = client.client()
    assert api.get_run(run.run_id).info.status == api.get_run(pipeline.run_id).info.status == "FAILED"
    tail = Path(api.download_artifacts(run.run_id, "log_tail.txt")).read_text()
    assert tail.endswith("error: no such thing\n") and len(tail.splitlines()) == stage_run.TAIL_LINES
    assert client.known_runs() == {}


def test_an_interrupted_stage_is_killed_and_so_is_the_pipeline(sft: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        tracked_runs.pipeline_run("tiny") as pipeline,
        pipeline.stage("sft", "1") as run,
    ):
        raise KeyboardInterrupt
    api = client.client()
    assert api.get_run(run.run_id).info.status == api.get_run(pipeline.run_id).info.status == "KILLED"


def test_a_cached_stage_is_logged_once_and_found_again(sft: Path) -> None:
    with tracked_runs.pipeline_run("tiny") as first:
        first.log_cached("sft", "1", sft)
    run_id = client.known_runs()["sft"]["run_id"]
    with tracked_runs.pipeline_run("tiny") as nothing_new:
        nothing_new.log_cached("sft", "1", sft)
    assert nothing_new.url is None, "a run in which nothing changed does not talk to MLflow"
    with tracked_runs.pipeline_run("tiny") as other:
        other.log_cached("sft", "2", sft)
    assert client.known_runs()["sft"]["run_id"] != run_id
    with tracked_runs.pipeline_run("tiny") as back:
        back.log_cached("sft", "1", sft)
    assert client.known_runs()["sft"]["run_id"] == run_id, "the version that came back has a run already"


def test_stages_side_by_side_keep_their_metrics_apart(sft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    runs = {}
    together = threading.Barrier(4)
    free = threading.Semaphore(1)
    true = MlflowClient.log_inputs

    def log_inputs(*args: Any) -> None:
        """Fail every time, as MLflow does when two log the same new data set at once."""
        assert free.acquire(blocking=False)
        threading.Event().wait(0.1)
        true(*args)
        free.release()

    monkeypatch.setattr(MlflowClient, "log_inputs", log_inputs)

    def work(pipeline: tracked_runs.PipelineRun, number: int) -> None:
        with pipeline.stage(f"stage{number}", "1") as run:
            for step in (1, 2, 3):
                run.log_event(event(step, loss=float(number)))
            together.wait(30)
            run.finish(sft, "FINISHED")
            runs[number] = run.run_id

    with tracked_runs.pipeline_run("tiny") as pipeline:
        threads = [threading.Thread(target=work, args=(pipeline, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    api = client.client()
    for number, run_id in runs.items():
        assert history(api, run_id, "loss") == [(step, float(number)) for step in (1, 2, 3)]
        assert api.get_run(run_id).data.tags["mlflow.parentRunId"] == pipeline.run_id
    assert len(runs) == len(client.known_runs()) == 4


def test_the_machine_is_watched_while_a_stage_runs(sft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracked_runs, "SAMPLE_SECONDS", 0.02)
    with tracked_runs.pipeline_run("tiny") as pipeline, pipeline.stage("sft", "1") as run:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if "system/system_memory_usage_percentage" in pipeline.logbook.api.get_run(run.run_id).data.metrics:
                break
        run.finish(sft, "FINISHED")
    assert 0 < client.client().get_run(run.run_id).data.metrics["system/system_memory_usage_percentage"] <= 100


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("api_key: abc", "(hidden)"),
        ("wandb: {password: abc}", "(hidden)"),
        ("trainer: {hub_token: abc}", "(hidden)"),
        ("note: hf_abcdefghijklmnop", "(hidden)"),
        ("url: 'https://me:secret@host/x'", "(hidden)"),
        ("keys: {secret: [a, b]}", "(hidden)"),
        ("hub_token: null", "null"),
        ("max_new_tokens: 64", "64"),
        ("eos_token: <|im_end|>", "<|im_end|>"),
        ("trained_tokens: 12", "12"),
        ("monkey: business", "business"),
    ],
)
def test_a_secret_is_never_logged(workspace: Path, text: str, shown: str) -> None:
    path = workspace / "sft.yaml"
    path.write_text(text)
    assert list(records.params(path).values()) == [shown]


def test_long_values_and_odd_names_fit_mlflow(workspace: Path) -> None:
    path = workspace / "sft.yaml"
    path.write_text(f"text: {'x' * 9000}\n")
    assert len(records.params(path)["text"]) == records.PARAM_LIMIT
    assert records.metric_name("a=b%c/d") == "a_b_c/d"


def test_figures_of_evaluation_and_export_are_read(workspace: Path) -> None:
    metric = {"value": 0.5, "low": 0.4, "high": 0.6}
    task = {"samples": 9, "metrics": {"helpful": metric}, "groups": {"digits": {"2": {"helpful": metric}}}}
    artifact.write_json(workspace / "results.json", {"model": "sft", "tasks": {"sums": task}})
    artifact.write_json(workspace / "parity.json", {"forms": {"int8": {"kl_per_token": 0.01}}, "thresholds": {}})
    found = records.final_metrics(workspace)
    assert found["sums/helpful"] == 0.5 and found["sums/helpful/low"] == 0.4
    assert found["sums/groups/digits/2/helpful"] == 0.5 and found["parity/int8/kl_per_token"] == 0.01


def test_metrics_wait_while_mlflow_is_away_and_are_sent_when_it_is_back(
    sft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_run, "FLUSH_SECONDS", 0.0)
    database = Path(".polm/mlflow.db")
    with tracked_runs.pipeline_run("tiny") as pipeline, pipeline.stage("sft", "1") as run:
        good = database.read_bytes()
        database.write_bytes(b"no database" * 10_000)
        with pytest.raises(MlflowException):
            run.log_event(event(1, entropy=3.0))
        start = time.monotonic()
        for step in range(2, 100):
            run.log_event(event(step, entropy=3.0 - step))  # asks nobody, and so cannot fail
        with pytest.raises(PolmError, match="MLflow did not answer"), pipeline.stage("dpo", "1"):
            pass
        with pytest.raises(PolmError, match="MLflow did not answer"):
            pipeline.log_cached("kto", "1", sft)
        assert time.monotonic() - start < 5
        database.write_bytes(good)
        run.finish(sft, "FINISHED")
    api = client.client()
    assert history(api, run.run_id, "entropy") == [(1, 3.0)] + [(step, 3.0 - step) for step in range(2, 100)]
    assert api.get_run(run.run_id).info.status == "FINISHED"


def test_an_mlflow_that_is_back_is_asked_again(sft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_run, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(logbook, "AWAY_SECONDS", 0.0)
    database = Path(".polm/mlflow.db")
    with tracked_runs.pipeline_run("tiny") as pipeline, pipeline.stage("sft", "1") as run:
        good = database.read_bytes()
        database.write_bytes(b"no database" * 10_000)
        with pytest.raises(MlflowException):
            run.log_event(event(1, entropy=3.0))
        database.write_bytes(good)
        run.log_event(event(2, entropy=2.0))
        assert history(pipeline.logbook.api, run.run_id, "entropy") == [(1, 3.0), (2, 2.0)]
        run.finish(sft, "FINISHED")


def test_a_value_that_mlflow_refuses_keeps_nobody_else_waiting(sft: Path) -> None:
    with tracked_runs.pipeline_run("tiny") as pipeline, pipeline.stage("sft", "1") as run:
        with pytest.raises(MlflowException), pipeline.logbook.pause.watch():
            pipeline.logbook.api.log_metric(run.run_id, "no\nname", 1.0)
        assert not pipeline.logbook.pause.on
        run.finish(sft, "FINISHED")
