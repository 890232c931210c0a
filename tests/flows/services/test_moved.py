"""A working copy that was moved: its store knows the files again, and no other store is touched."""

import io
import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from bench.serve import serving
from flows.registry import lineage, promotion, registration
from flows.registry.version import champion
from flows.services import moved
from flows.serving import chat
from flows.tracking import client
from tasks.stage import artifact
from tasks.stage.errors import PolmError
from tests.support.promotable import Make, make_project
from tests.support.serving import ask
from tests.support.traces import ANSWER, trace

NAME = "polm-tiny"
SERVED = """
import os

import mlflow

class Served(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.files = os.listdir(context.artifacts["onnx"])

    def predict(self, context, model_input, params=None):
        return self.files

mlflow.models.set_model(Served())
"""


def addresses(root: Path) -> list[str]:
    """Every text of the database that names a file of the store."""
    found: list[str] = []
    with closing(sqlite3.connect(root / ".polm/mlflow.db")) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in db.execute(f'SELECT * FROM "{table}"'):
                found += [value for value in row if isinstance(value, str) and "mlartifacts" in value]
    return found


def enter(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go there, with the environment of a new command."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(root / ".polm/dvc"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", moved.uri())


@pytest.fixture
def first(tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy with a store and one run that has a file."""
    root = tmp_path / "first place"
    (root / ".polm").mkdir(parents=True)
    shutil.copyfile(mlflow_template, root / ".polm/mlflow.db")
    enter(root, monkeypatch)
    api = client.client()
    run = api.create_run(client.experiment_id(api, "tiny"))
    api.log_text(run.info.run_id, "kept", "note.txt")
    return root


def note() -> str:
    """The file of the one run."""
    api = client.client()
    [run] = api.search_runs([client.experiment_id(api, "tiny")])
    return Path(api.download_artifacts(run.info.run_id, "note.txt")).read_text()


def test_every_command_works_after_a_move(
    tmp_path: Path, make_artifact: Make, chat_onnx: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from dvc.repo import Repo

    before, after = tmp_path / "first", tmp_path / "an other/place"
    before.mkdir()
    make_project(before, make_artifact)
    shutil.copyfile(mlflow_template, before / ".polm/mlflow.db")
    (before / "mlflow/chat_model.py").write_text(SERVED)
    enter(before, monkeypatch)
    export, asked = Path("artifacts/onnx/sft"), Path("artifacts/metrics/sft_int8")
    inputs = artifact.read_manifest(export).inputs
    shutil.rmtree(export / "int8")
    shutil.copytree(chat_onnx / "int8", export / "int8")
    for folder in (export, asked):
        (folder / artifact.MANIFEST).unlink()
    exported = make_artifact(export, stage="export_onnx", **inputs)
    make_artifact(asked, stage="evaluate", model=exported.digest, data=inputs["data"])
    for name in ("export-sft", "evaluate_onnx-sft"):
        Repo().commit(name, force=True)
    promotion.promote("sft")
    trace(ANSWER)
    told = lineage.find(ANSWER)
    known = addresses(before)
    assert len(known) == 5, "of the experiment, the run, the logged model, the version, and the trace"
    assert all(address.startswith(before.as_uri()) for address in known)

    after.parent.mkdir()
    before.rename(after)
    enter(after, monkeypatch)
    assert lineage.find(ANSWER) == told
    assert sorted(addresses(after)) == sorted(address.replace(before.as_uri(), after.as_uri()) for address in known), (
        "all of them were mended, and only their beginning"
    )
    with champion() as (folder, _):
        assert folder.is_relative_to(after)
        console = Console(file=io.StringIO())
        chat.answer(folder, "What is 2 + 3?", max_new_tokens=4, temperature=0.0, console=console)
    with serving(after, "--threads", "1") as (url, _):
        assert ask(url).json()["model"] == f"{NAME}/1"
    assert "genai_config.json" in mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(registration.EXAMPLE)
    promotion.promote("dpo")
    promotion.rollback()
    assert lineage.find("champion").tags["model"] == "sft" and lineage.find("previous").tags["model"] == "dpo"


def test_a_move_is_said_once_by_one_of_many(
    first: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    second = first.with_name("second ü%20")
    first.rename(second)
    enter(second, monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(moved.mend) for _ in range(8)]:
            done.result()
    assert [record.getMessage() for record in caplog.records] == [
        f".polm/mlflow.db: this working copy was at {first}; mended 2 addresses of files"
    ]
    assert note() == "kept"
    assert len(caplog.records) == 1, "there is nothing left to mend"


def test_a_copy_writes_into_its_own_folder(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = first.with_name("second")
    shutil.copytree(first, second, symlinks=True)
    enter(second, monkeypatch)
    assert note() == "kept"
    assert all(second.as_uri() in address for address in addresses(second))
    assert all(first.as_uri() in address for address in addresses(first)), "the first one keeps its own"


def test_what_is_not_of_this_working_copy_stays(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = client.client()
    places = {"polm-s3": "s3://bucket/.polm/mlartifacts", "mine": "file:///data/first place/.polm/mlartifacts"}
    for name, place in places.items():
        api.create_experiment(name, artifact_location=place)
    second = first.with_name("second")
    first.rename(second)
    enter(second, monkeypatch)
    assert note() == "kept"
    assert {name: client.client().get_experiment_by_name(name).artifact_location for name in places} == places


def test_another_working_copy_that_shares_the_store_keeps_its_files(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's database, used by `MLFLOW_TRACKING_URI`, with files beside the second."""
    second = first.with_name("second")
    (second / ".polm").mkdir(parents=True)
    monkeypatch.chdir(second)  # the environment still names the first store
    api = client.client()
    run = api.create_run(client.experiment_id(api, "other")).info.run_id
    api.log_text(run, "of the second", "note.txt")
    enter(first, monkeypatch)
    api = client.client()
    assert Path(api.download_artifacts(run, "note.txt")).read_text() == "of the second"
    assert api.get_experiment_by_name("polm-other").artifact_location.startswith(second.as_uri())


def test_a_store_of_another_uri_is_not_opened(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = addresses(first)
    second = first.with_name("second")
    (second / ".polm").mkdir(parents=True)
    monkeypatch.chdir(second)
    for uri in ("http://127.0.0.1:1", f"sqlite:///{first}/.polm/mlflow.db", "sqlite:////nowhere/mlflow.db"):
        assert not moved.is_ours(uri)
    enter(first, monkeypatch)
    for uri in (moved.uri(), "sqlite:///.polm/mlflow.db", f"sqlite:///{first}/.polm/../.polm/mlflow.db"):
        assert moved.is_ours(uri)
    assert addresses(first) == before


def test_a_database_that_is_locked_or_broken_says_so(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = first.with_name("second")
    first.rename(second)
    enter(second, monkeypatch)
    monkeypatch.setattr(moved, "WAIT_SECONDS", 0.1)
    with closing(sqlite3.connect(".polm/mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PolmError, match=r"was moved, and the addresses in there cannot be mended .*locked"):
            moved.mend()
    Path(".polm/mlflow.db").write_bytes(b"no database" * 1000)
    moved.mend()  # MLflow says what is wrong with it


def test_a_folder_whose_name_ends_the_address_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "what?x=1"
    odd.mkdir()
    monkeypatch.chdir(odd)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(PolmError, match="rename that folder"):
        client.client()
    assert not (tmp_path / "what").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    client.client()


def test_a_moved_copy_that_cannot_be_written_is_read(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = first.with_name("second")
    first.rename(second)
    enter(second, monkeypatch)
    before = Path(".polm/mlflow.db").read_bytes()
    access = os.access  # root may write everywhere: so this is the system's answer to somebody else
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(".polm") and access(path, mode))
    api = client.client(writes=False)
    [run] = api.search_runs([api.get_experiment_by_name("polm-tiny").experiment_id])
    assert Path(api.download_artifacts(run.info.run_id, "note.txt")).read_text() == "kept"
    assert Path(".polm/mlflow.db").read_bytes() == before
    enter(second, monkeypatch)  # another command, which writes: never into a copy
    client.client()
    assert Path(".polm/mlflow.db").read_bytes() != before
