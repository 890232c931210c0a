"""A version of a registered model: the tags it must have, its exported folder on this machine, and the champion's."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows import workspace
from flows.registry.aliases import Aliases
from flows.tracking import client
from tasks.stage.errors import GateError, ModelError

TAGS = ("model", "form", "digest", "export")
"""Tags that a version must have; `polm promote` sets them."""
INDEX = "index"
"""Tag of a reader: digest of the index that it was evaluated with, which lies in its folder `rag/`."""
RAG = "rag"
"""Folder of a reader's index and of the format of its prompts, beside the exported model."""


@contextlib.contextmanager
def exported(api: Any, version: Any) -> Iterator[Path]:
    """Open the ONNX Runtime GenAI folder of a version where it lies, or copy it for a while from a store elsewhere.

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
    place = api.get_model_version_download_uri(version.name, str(version.version))
    inside = Path("artifacts", version.tags["form"])
    if urlsplit(place).scheme in ("", "file"):
        yield Path(mlflow.artifacts.download_artifacts(place, tracking_uri=api.tracking_uri)) / inside
        return
    with tempfile.TemporaryDirectory(prefix="polm-") as copy:
        download = mlflow.artifacts.download_artifacts(version.source, dst_path=copy, tracking_uri=api.tracking_uri)
        yield Path(download) / inside


@contextlib.contextmanager
def champion() -> Iterator[tuple[Path, str]]:
    """Open the active recipe's champion for as long as the block runs.

    Yields:
        Folder of its exported model, and its name for a person, e.g. `polm-tiny v3 (dpo, int8)`.

    Raises:
        GateError: there is none yet.
        ModelError: it was not registered by `polm promote`.
    """
    api = client.client(writes=False)
    name = client.experiment(workspace.active_recipe())
    aliases = Aliases(api, name).read()
    if "champion" not in aliases:
        raise GateError(f"{name}: there is no champion yet; `polm promote MODEL` makes one")
    version = api.get_model_version(name, aliases["champion"])
    with exported(api, version) as folder:
        yield folder, f"{name} v{version.version} ({version.tags['model']}, {version.tags['form']})"
