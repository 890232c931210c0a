"""The version that an alias names, from a store whose files are elsewhere."""

import shutil
import tempfile
from pathlib import Path

import pytest
from mlflow.entities import FileInfo
from mlflow.store.artifact import artifact_repository_registry as registry
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from bench.serve import NAME, make_registry
from flows.serving.follower import Follower
from flows.tracking import client


class Elsewhere(ArtifactRepository):
    """Reads `elsewhere:/folder` as from another machine: MLflow has to copy."""

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        folder = Path(self.artifact_uri.removeprefix("elsewhere:"))
        found = sorted((folder / (path or "")).iterdir()) if (folder / (path or "")).is_dir() else []
        return [FileInfo(str(p.relative_to(folder)), p.is_dir(), p.stat().st_size) for p in found]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        shutil.copyfile(Path(self.artifact_uri.removeprefix("elsewhere:")) / remote_file_path, local_path)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        raise NotImplementedError

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        raise NotImplementedError


def test_a_copy_of_a_remote_model_goes_once_it_is_loaded(
    tracking: Path, chat_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_registry(tracking, [chat_onnx / "fp32"])
    temp = tracking / "temp"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    monkeypatch.setitem(registry._artifact_repository_registry._registry, "elsewhere", Elsewhere)
    api = client.client()
    made = api.get_model_version(NAME, "1")
    source = made.source.replace("file:", "elsewhere:")
    api.create_model_version(NAME, source=source, tags=made.tags)
    for version in ("1", "2"):
        api.set_registered_model_alias(NAME, "champion", version)
        follower = Follower("tiny", "champion", batch=1, threads=1, seconds=60.0)
        try:
            assert follower.current.version == version and follower.current.worker.alive
            assert not [p.name for p in temp.iterdir() if p.name.startswith(("polm", "tmp"))]
        finally:
            follower.close()
    assert Path(made.source.removeprefix("file://")).exists()
