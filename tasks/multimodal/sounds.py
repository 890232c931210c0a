"""Sounds of a data artifact, as models are given them: decoded when they are needed."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.multimodal.images import Archive
from tasks.stage.errors import ArtifactError

AUDIO = "audio"
"""Column with the names of a row's sounds."""


def has_audio(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any of the rows has sounds."""
    return any(row.get(AUDIO) for row in rows)


def sound(archive: Archive, name: str) -> tuple[Any, int]:
    """Decode one sound.

    Args:
        archive: of the data artifact.
        name: in its archive, as rows name it.

    Returns:
        `[samples]` (float32, -1 to 1), and how many of them are a second.

    Raises:
        ArtifactError: it is not there, or not whole.
    """
    import soundfile

    content = archive.read(name)
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    except (soundfile.LibsndfileError, ValueError) as e:
        reason = getattr(e, "error_string", e)
        raise ArtifactError(f"{name}: cannot be decoded ({reason}); run the stage of this data again") from None
    return samples, rate
