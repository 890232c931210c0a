"""Which sets show pictures or clips, and what a row of them shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.ingestion.mapping import IMAGES, VIDEO
from tasks.ingestion.picture_columns import pictures_of
from tasks.ingestion.pictures import Picture, Pictures, PictureSettings
from tasks.ingestion.settings import Rows, Set
from tasks.ingestion.sources import Table
from tasks.ingestion.videos import VideoSettings
from tasks.stage.errors import DataError

SHOWN = {IMAGES, VIDEO}
"""Keys of a map that name pictures."""


def shows(spec: Set) -> bool:
    """Whether a set has pictures or clips."""
    return any(SHOWN & rows.map.keys() for rows in spec.rows)


def store(
    sets: Mapping[str, Set], settings: PictureSettings | None, videos: VideoSettings | None, folder: Path, where: Path
) -> Pictures | None:
    """Make the store of pictures; None where no set has any.

    Args:
        sets: name to set.
        settings: the recipe's section `pictures`.
        videos: the recipe's section `videos`.
        folder: for pictures that have to be changed, until the archive is written.
        where: the recipe file, for messages.

    Raises:
        DataError: a set has pictures or clips, and the recipe no section that bounds them.
    """
    name = next((name for name, spec in sets.items() if shows(spec)), None)
    if name is None:
        return None
    if settings is None:
        raise DataError(
            f"{where}: set '{name}' has pictures, and there is no section 'pictures'; add it, e.g. "
            f"`pictures: {{max_pixels: 4_000_000, max_bytes: 10_000_000, near: 8}}`"
        )
    name = next((name for name, spec in sets.items() if any(VIDEO in rows.map for rows in spec.rows)), None)
    if name is not None and videos is None:
        raise DataError(
            f"{where}: set '{name}' has clips, and there is no section 'videos'; add it, e.g. "
            f"`videos: {{fps: 2, max_frames: 16}}`"
        )
    return Pictures(folder, settings, videos)


def seen(spec: Rows, row: dict[str, Any], table: Table, pictures: Pictures | None) -> tuple[Picture, ...]:
    """Look at what a row shows, the frames of a clip in order. Raises BadRow."""
    if pictures is None:
        return ()
    if VIDEO in spec.map:
        clips = pictures_of(spec.map[VIDEO], row)
        return tuple(frame for clip in clips for frame in pictures.add_video(clip, table.media))
    if IMAGES in spec.map:
        return tuple(pictures.add(value, table.media) for value in pictures_of(spec.map[IMAGES], row))
    return ()
