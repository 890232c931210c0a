"""The teacher of an encoder: a cross-encoder, which reads question and chunk together and says how well they fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.models.folder import check_folder
from tasks.retrieval.snapshot import snapshot
from tasks.stage.config import Strict
from tasks.stage.errors import ConfigError


class Teacher(Strict):
    """Where a cross-encoder comes from: a hub or a folder."""

    hub: str | None = None
    """Hub id, e.g. `cross-encoder/ms-marco-MiniLM-L6-v2`."""
    revision: str | None = None
    """Commit, tag or branch of it."""
    folder: Path | None = None
    """In place of a hub id: folder of the model, relative to the repository's root."""
    batch_size: int = Field(gt=0)
    """Pairs that are scored at a time."""
    licence: str
    """SPDX identifier, or the licence's name."""


def load(teacher: Teacher) -> Callable[[list[tuple[str, str]]], Any]:
    """Load a cross-encoder on the CPU, and return what scores pairs of question and document.

    Raises:
        ConfigError: it names neither a hub id with its revision nor a folder, or both.
        ModelError: it cannot be fetched, or could run code.
    """
    from sentence_transformers import CrossEncoder

    if (teacher.hub is None) == (teacher.folder is None) or (teacher.hub is None) != (teacher.revision is None):
        raise ConfigError("teacher: needs either 'folder', or 'hub' and 'revision'; give one of the two")
    folder = teacher.folder if teacher.folder is not None else snapshot(str(teacher.hub), str(teacher.revision))
    check_folder(folder)
    model = CrossEncoder(
        str(folder),
        device="cpu",
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True},
    )
    return lambda asked: model.predict(asked, batch_size=teacher.batch_size, show_progress_bar=False)
