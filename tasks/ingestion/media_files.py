"""Files that rows name, of pictures, clips and sounds: found, read within bounds, and kept in one archive."""

import hashlib
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.ingestion.media_columns import Blob
from tasks.ingestion.values import BadRow
from tasks.multimodal.picture_files import Unfit, shown
from tasks.stage.data_folder import MEDIA
from tasks.stage.errors import DataError


def find(value: Any, folders: Sequence[Path], what: str) -> tuple[Path, str]:
    """Find a file that a row names, or that its bytes were put into.

    Args:
        value: a file's name, a `Blob`, or a mapping with a file's name under `path`.
        folders: where named files may lie; a name that leads out of them is refused.
        what: what the file should hold, for messages: `picture`, `video`, `sound`.

    Returns:
        Its path, and the name to call it by.

    Raises:
        BadRow: it is no name of a file in these folders.
    """
    if isinstance(value, Blob):
        return value.path, value.name
    if isinstance(value, dict) and value.get("bytes") is None and set(value) <= {"bytes", "path"}:
        value = value.get("path")
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise BadRow(f"a {what} is {kind}; expected the name of a file, or bytes")
    if not value.strip():
        raise BadRow(f"the name of a {what} is empty")
    name = shown(value)
    if value.startswith("data:"):
        raise BadRow(f"the {what} {name[:20]}… is written out in its address; save it as a file, and name that")
    if "://" in value:
        raise BadRow(f"the {what} {name} is an address; download it, and name the file")
    try:
        paths = [(folder / value).resolve() for folder in folders]
        inside = [p for p in paths if any(p.is_relative_to(folder.resolve()) for folder in folders)]
        path = next((p for p in inside if p.exists()), inside[0] if inside else paths[0])
        mode = path.stat().st_mode if inside else None
    except (FileNotFoundError, NotADirectoryError):
        raise BadRow(f"the {what} {name} is not in {folders[0]}") from None
    except OSError as e:
        raise BadRow(f"the {what} {name} is no path ({e.strerror})") from None
    except (RuntimeError, ValueError):  # a link that leads back to itself, a NUL, half of a surrogate pair
        raise BadRow(f"the {what} {name} is no path that can be followed") from None
    if mode is None:
        raise BadRow(
            f"the {what} {name} lies outside {folders[0]}; put it there, or set the source's `media` to a folder "
            f"above it"
        )
    if not stat.S_ISREG(mode):
        raise BadRow(f"the {what} {name} is {'a folder' if stat.S_ISDIR(mode) else 'a pipe or device'}, not a file")
    return path, value


def read(path: Path, most: int, key: str) -> bytes:
    """Read a file.

    Args:
        path: the file.
        most: most bytes that it may have.
        key: the recipe's key that says so, for the message.

    Raises:
        Unfit: it is empty, larger, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise Unfit("has 0 bytes")
        if size > most:
            raise Unfit(f"has {size} bytes, over {key} ({most})")
        return path.read_bytes()
    except OSError as e:
        raise Unfit(f"cannot be read ({e.strerror})") from None


def digest(content: bytes) -> str:
    """Return 32 hex digits of the SHA-256 of a file's bytes, by which it is named in the archive."""
    return hashlib.sha256(content).hexdigest()[:32]


def write_archive(folder: Path, files: Mapping[str, Path]) -> None:
    """Write `media.zip`: the files uncompressed, so that each of them can be read by itself, in the order of names.

    Args:
        folder: the data artifact.
        files: name in the archive, whose stem is the digest, to where the file lies.

    Raises:
        DataError: a file has changed since it was looked at.
    """
    with zipfile.ZipFile(folder / MEDIA, "w", zipfile.ZIP_STORED) as archive:
        for name, path in sorted(files.items()):
            try:
                content = path.read_bytes()
            except OSError as e:
                raise DataError(f"{path}: cannot be read again ({e.strerror})") from None
            if digest(content) != Path(name).stem:
                raise DataError(f"{path}: changed while the data was made; run the stage again")
            archive.writestr(zipfile.ZipInfo(name), content)  # ZipInfo has a fixed date: the bytes are the same
