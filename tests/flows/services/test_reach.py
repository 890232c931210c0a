"""Services outside: an answer within seconds or one line that says what was tried."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.registry import promotion
from flows.services import reach
from flows.services.dashboards import free_port
from flows.tracking import client
from flows.workspace import SERVICES, enter
from tasks.stage.errors import PolmError

REPO = Path(__file__).parents[3]


@pytest.fixture
def mute() -> Iterator[int]:
    """Port of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def quick(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which MLflow is loaded already and a server has one second."""
    import mlflow  # noqa: F401

    monkeypatch.setattr(reach, "SECONDS", 1.0)
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    return workspace


def refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, float]:
    """What is said of a store that does not answer, and after how many seconds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    start = time.monotonic()
    with pytest.raises(PolmError) as e:
        client.client()
    return str(e.value), time.monotonic() - start


def test_an_mlflow_that_is_not_there(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    said, seconds = refused(f"http://127.0.0.1:{port}", monkeypatch)
    assert said.startswith(f"MLflow at http://127.0.0.1:{port} (MLFLOW_TRACKING_URI): connection refused, tried for ")
    assert seconds < 8, "MLflow's own client takes sixteen"


def test_an_mlflow_that_does_not_answer(quick: Path, mute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said, seconds = refused(f"http://127.0.0.1:{mute}", monkeypatch)
    assert "it takes the connection and does not answer, tried for " in said and seconds < 8
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ, "the bound is for the first contact"


def test_the_users_bound_counts(quick: Path, mute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "SECONDS", 60.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    _, seconds = refused(f"http://127.0.0.1:{mute}", monkeypatch)
    assert seconds < 20


def test_a_server_that_has_answered_is_not_asked_again(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    asked = []
    search = MlflowClient.search_experiments

    def search_experiments(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        return search(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "search_experiments", search_experiments)
    client.client()
    assert len(asked) == 1, "what is not asked at first is not asked again either"
    client.client()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql://me:secret@127.0.0.1:{port}/x", "MLflow at postgresql://me:***@127.0.0.1:"),
        ("htp://127.0.0.1", "unsupported URI 'htp://127.0.0.1'"),
        ("sqlite:///file/x.db", "MLflow's store file/x.db: file: a file stands where a folder is expected; move it"),
        ("sqlite:///broken.db", "MLflow's store broken.db: file is not a database; move it away"),
        ("sqlite:///folder", "MLflow's store folder: a folder stands where a file is expected; move it away"),
    ],
)
def test_a_store_that_cannot_be_opened(quick: Path, uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    Path("broken.db").write_bytes(b"no database" * 1000)
    message, seconds = refused(uri.format(port=free_port()), monkeypatch)
    assert said in message and "secret" not in message and "\n" not in message
    assert seconds < 10, "MLflow's own client takes two minutes"


def test_prefect(quick: Path, mute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for address, said in {
        f"http://127.0.0.1:{free_port()}/api": "connection refused, tried for 0.",
        f"http://127.0.0.1:{mute}/api": "it takes the connection and does not answer, tried for ",
        "localhost:4200": "missing an 'http://' or 'https://' protocol",
    }.items():
        monkeypatch.setenv("PREFECT_API_URL", address)
        with pytest.raises(PolmError) as e:
            reach.prefect()
        assert f"Prefect at {address} (PREFECT_API_URL): " in str(e.value) and said in str(e.value)


def test_a_deleted_experiment_is_named_and_nothing_moves(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("params").mkdir()
    Path("params/recipe.yaml").write_text("recipe: tiny\n")
    api = client.client()
    number = client.experiment_id(api, "tiny")
    api.create_registered_model("polm-tiny")
    for version in (1, 2):
        api.create_model_version("polm-tiny", source="file:///x")
        api.set_registered_model_alias("polm-tiny", "previous" if version == 1 else "champion", str(version))
    api.delete_experiment(number)

    with pytest.raises(PolmError, match="'polm-tiny' was deleted; restore it") as e:
        client.check("tiny")
    with pytest.raises(PolmError, match="was deleted"):
        promotion.rollback()
    assert api.get_registered_model("polm-tiny").aliases == {"previous": 1, "champion": 2}
    assert f"mlflow experiments restore --experiment-id {number}`" in str(e.value)
    api.restore_experiment(number)
    client.check("tiny")
    with pytest.raises(PolmError, match="no version has an MLflow run"):  # they were registered by hand
        promotion.rollback()


def test_a_store_that_can_only_be_read_is_told_before_a_run(tracking: Path) -> None:
    """In a user namespace that holds no rights over the file, so that root is refused too."""
    database = tracking / ".polm/mlflow.db"
    database.chmod(0o444)
    code = f"from flows.services import reach; reach.require_writable('sqlite:///{database}')"
    command = [sys.executable, "-c", code]
    if os.geteuid() == 0:
        if shutil.which("unshare") is None:
            pytest.skip("no user namespace")
        os.chown(database, 12345, 12345)
        command = ["unshare", "--map-root-user", *command]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert f"PolmError: MLflow's store {database}: permission denied; " in done.stderr
    database.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(database, 0, 0)
    reach.require_writable(f"sqlite:///{database}")


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_store_in_memory_is_refused(quick: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said, _ = refused(uri, monkeypatch)
    assert "names no file" in said and "MLFLOW_TRACKING_URI" in said


def test_an_empty_address_is_none(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    for name in SERVICES:
        monkeypatch.setenv(name, "")
    enter()
    assert "MLFLOW_TRACKING_URI" not in os.environ and "PREFECT_API_URL" not in os.environ
    assert os.environ["PREFECT_HOME"] == str(workspace / ".polm/prefect")
    assert os.environ["DVC_SITE_CACHE_DIR"] == str(workspace / ".polm/dvc")


def test_a_schedule_is_not_told_to_start_a_server_of_its_own(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SERVICES:
        monkeypatch.setenv(name, "")
    files = {"dvc.yaml": "stages: {}", "params/recipe.yaml": "recipe: t", "params/t/a.yaml": "seed: 0"}
    for name, text in files.items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(f"{text}\n")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    with pytest.raises(PolmError, match="start that server, or unset PREFECT_API_URL and start `polm ui`"):
        cli.schedule(cron="0 2 * * *")


@pytest.mark.parametrize(
    "uri",
    [
        "http://polm:hush@host:5000", "http://polm:hu@hush@host:5000", "http://polm:hu/hush@host:5000",
        "http://polm::hush:@host:5000", "postgresql://host/db?user=polm&password=hush", "s3://key:hush@bucket/polm",
    ],
)  # fmt: skip
def test_no_password_is_shown(uri: str) -> None:
    said = reach.shown(f"cannot reach {uri} now")
    assert "hush" not in said and "***" in said and said.endswith(" now")


def test_the_address_of_a_run_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored under `.polm/`, printed, and shown in Prefect."""
    for secret in ("hush", "hu@hush", "hu/hush"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://polm:{secret}@host:5000/")
        assert client.run_url("1", "abc") == "http://host:5000/#/experiments/1/runs/abc"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000/a@b")
    assert client.run_url("1", "abc") == "http://host:5000/a@b/#/experiments/1/runs/abc"
