"""Which columns hold pictures, clips and sounds, and bytes in a row, which are put into files at once."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.ingestion.lines import Line
from tasks.ingestion.mapping import MEDIA, columns, render
from tasks.ingestion.settings import Set
from tasks.ingestion.values import BadRow


@dataclass(frozen=True)
class Blob:
    """Bytes that stood in a row, put down in a file that is named by their hash until the row is mapped."""

    path: Path
    """Where they lie; the same bytes lie there once."""
    name: str
    """The name that they came with, or the empty string."""
    size: int
    """How many they are."""

    def __str__(self) -> str:
        """Describe them to a person; where they lie for a while is nobody's business."""
        return f"{self.size} bytes{f' ({self.name})' if self.name else ''}"


@dataclass(frozen=True)
class Spiller:
    """Puts the pictures, clips and sounds in the rows of one source into files."""

    folder: Path
    """Where they go."""
    media: frozenset[str]
    """Columns whose bytes are pictures, clips or sounds that a set has."""
    mapped: frozenset[str]
    """Columns that sets use otherwise."""

    def __call__(self, line: Line) -> Line:
        """Return the row with its bytes in files."""
        return Line(line.number, spill(line.row, self.folder, self.media, self.mapped))


def spiller(sets: dict[str, Set], source: str, folder: Path) -> Spiller:
    """Make what puts the pictures, clips and sounds in the rows of a source into files of `folder`."""
    maps = [rows.map for spec in sets.values() for rows in spec.rows if rows.source == source]
    media = {column for template in maps for key in MEDIA for column in columns(template.get(key))}
    mapped = {column for template in maps for column in columns({**template, **dict.fromkeys(MEDIA)})}
    return Spiller(folder, frozenset(media), frozenset(mapped))


def spill(row: dict[str, Any], folder: Path, media: Collection[str], mapped: Collection[str]) -> dict[str, Any]:
    """Put the bytes of a row into files, so that a source of many pictures or sounds is not held in memory.

    Bytes are Parquet's binary values, the `{bytes, path}` of `datasets`, and lists of either.

    Args:
        row: columns to values.
        folder: where to write.
        media: columns whose bytes are pictures, clips or sounds that a set has.
        mapped: columns that sets use otherwise; they stay as they are. Of bytes in any other column the size is kept.
    """
    return {
        name: _put(value, folder if name in media else None) if name in media or name not in mapped else value
        for name, value in row.items()
    }


def _put(value: Any, folder: Path | None) -> Any:
    """Replace bytes, at any depth of lists, by a `Blob`; without a folder by their number."""
    if isinstance(value, list):
        return [_put(item, folder) for item in value]
    content, name = value, ""
    if isinstance(value, dict) and "bytes" in value and set(value) <= {"bytes", "path"}:
        content, name = value["bytes"], str(value.get("path") or "")
    if not isinstance(content, bytes | bytearray):
        return value
    if folder is None:
        return f"{len(content)} bytes"
    digest = hashlib.sha256(content).hexdigest()
    path = folder / digest[:2] / digest
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Blob(path, name.replace("\\", "/").rpartition("/")[2], len(content))


def values_of(template: str | list[str], row: dict[str, Any], what: str) -> list[Any]:
    """List what a row has for pictures, by the map's `images`; so too for `video` and `audio`.

    Args:
        template: a column alone, `{picture}`, gives what is in it, which may be a list; any other text is a file's
            name, in which columns are filled in: `photographs/{number}.jpg`.
        row: columns to values.
        what: what they should be, for messages: `picture`, `video`, `sound`.

    Raises:
        BadRow: no such column, nothing in it, or an empty list.
    """
    values: list[Any] = []
    for item in template if isinstance(template, list) else [template]:
        name = item[1:-1]
        if item != f"{{{name}}}" or "{" in name or ":" in name:
            values.append(render(item, row))
            continue
        if row.get(name) is None:
            raise BadRow(f"'{name}' is null, and should be a {what}" if name in row else f"no column '{name}'")
        values += row[name] if isinstance(row[name], list) else [row[name]]
    if not values:
        raise BadRow(f"the row has no {what}, only an empty list")
    return values
