"""Fixtures of the flow tests: an MLflow store that is ready at once."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.export import builder
from tests.support.forking import COMMAND, HARNESS, LIBRARIES, Forking
from tests.support.promotable import Make, make_project


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated MLflow database, made once: migrating one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with contextlib.chdir(path.parent):  # where the default experiment's artifacts go, for good
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def forking_command() -> Iterator[Forking]:
    """What `polm`, and all else that needs Prefect or MLflow, can fork from."""
    with Forking(COMMAND) as forking:
        yield forking


@pytest.fixture(scope="session")
def forking_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A `python` whose `polm`, DVC and stages fork."""
    with Forking((*COMMAND, *LIBRARIES, *HARNESS)) as forking:
        yield forking.write_python(tmp_path_factory.mktemp("bin"), ("flows.cli", "dvc", "tasks."))


@pytest.fixture(scope="session")
def chat_onnx(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small chat model in fp32 and int8, as ONNX Runtime GenAI folders with a context of 256 tokens."""
    out = tmp_path_factory.mktemp("onnx")
    for form in ("fp32", "int8"):
        options = builder.prepare_options(chat_model, form, form, {})
        builder.build(chat_model, out / form, precision=form, options=options)
    return out


@pytest.fixture
def tracking(workspace: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with an MLflow store of its own under `.polm/`."""
    path = workspace / ".polm/mlflow.db"
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(mlflow_template, path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    return workspace


@pytest.fixture(scope="session")
def promotable(tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    """A committed project whose artifacts are those in `dvc.lock`; copied for each test."""
    root = tmp_path_factory.mktemp("project")
    make_project(root, make_artifact)
    return root
