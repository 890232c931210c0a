"""A version of a registered model: the tags it must have, and its exported folder on this machine."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.stage.errors import ModelError

TAGS = ("model", "form", "digest", "export")
"""That a version must have: `polm promote` sets them."""


@contextlib.contextmanager
def exported(api: Any, version: Any) -> Iterator[Path]:
    """The ONNX Runtime GenAI folder of a version: where it lies, or a copy for a while, when the store is elsewhere.

    Args:
        api: MLflow's client.
        version: MLflow's `ModelVersion`.

    Raises:
        ModelError: the version was not registered by `polm promote`.
    """
    import mlflow

    missing = [tag for tag in TAGS if tag not in version.tags]
    if missing:
        raise ModelError(
            f"{version.name}/{version.version} has no tag '{missing[0]}', which `polm promote` sets; promote its model "
            f"again"
        )
    place, inside = api.get_model_version_download_uri(version.name, str(version.version)), Path("artifacts")
    inside /= version.tags["form"]
    if urlsplit(place).scheme in ("", "file"):
        yield Path(mlflow.artifacts.download_artifacts(place, tracking_uri=api.tracking_uri)) / inside
        return
    with tempfile.TemporaryDirectory(prefix="polm-") as copy:
        fetched = mlflow.artifacts.download_artifacts(version.source, dst_path=copy, tracking_uri=api.tracking_uri)
        yield Path(fetched) / inside
