"""Pictures of a data artifact: looked at once, named by their content, and kept in one archive.

A picture comes as a file that a row names, or as bytes inside a row. It is opened and decoded whole before it may
train anything, so that a truncated file, a bomb or a page of HTML called `.jpg` costs one row, named by file and line,
and no training run. Its name is the hash of the bytes that are kept; what it shows is compared by its pixels and, with
`near`, by what the eye sees, so that the same picture, encoded again or scaled, stays on one side of a split.

`media.zip` holds the files that the sets show, uncompressed, so that any of them can be read, or looked at, by itself.
"""

import hashlib
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.ingestion import likeness
from tasks.ingestion.picture_columns import Blob
from tasks.ingestion.values import BadRow
from tasks.ingestion.videos import VideoSettings, encoded, frames
from tasks.multimodal.picture_files import Decoded, Unfit, decode, format_of, shown
from tasks.stage.config import Strict
from tasks.stage.data_folder import MEDIA
from tasks.stage.errors import DataError


class PictureSettings(Strict):
    """The section `pictures:` of a data.yaml whose rows have pictures."""

    max_pixels: int = Field(gt=0)
    """Most pixels of a picture, width times height; one with more is a bad row, and is not decoded."""
    max_bytes: int = Field(gt=0)
    """Most bytes of a picture's file."""
    near: int | None = Field(ge=0, le=likeness.MOST)
    """Most of 256 places (16 x 16) in which two pictures differ that count as one; null compares pixels alone, as is
    right for small drawings that resemble each other by nature."""


@dataclass
class Picture:
    """One picture."""

    name: str
    """Its name in the archive."""
    pixels: str
    """Hash of the pixels: equal for what is the same picture in another lossless encoding."""
    family: str = ""
    """`pixels` of one picture that stands for all that resemble each other; known once all have been looked at."""
    flat: bool = False
    """Whether it is of one brightness, such as a frame of black, and shows nothing by which it could be known."""


@dataclass(frozen=True)
class _Kept:
    """A picture's file until the archive is written, and what the report says of it."""

    path: Path
    size: int
    longer_side: int
    changes: tuple[str, ...]


class Pictures:
    """The pictures of one data artifact, while it is made."""

    def __init__(self, folder: Path, settings: PictureSettings, videos: VideoSettings | None = None) -> None:
        """Begin with none.

        Args:
            folder: for pictures that had to be changed, and frames of clips, until the archive is written.
            settings: bounds and likeness.
            videos: which frames are taken of a clip; None where no row has one.
        """
        self._folder = folder
        self._settings = settings
        self._videos = videos
        self._by_clip: dict[str, list[Picture]] = {}
        self._by_path: dict[str, tuple[Picture | None, str]] = {}
        self._by_content: dict[tuple[str, str | None], tuple[Picture | None, str]] = {}
        self._kept: dict[str, tuple[Picture, _Kept]] = {}
        self._sketches: dict[str, tuple[Any, float]] = {}
        self.decoded = 0
        """How many files have been decoded."""

    def add(self, value: Any, folders: Sequence[Path]) -> Picture:
        """Look at a picture, unless it is known, and remember it.

        Args:
            value: a file's name, a `Blob`, or a mapping with a file's name under `path`.
            folders: where named files may lie; a name that leads out of them is refused.

        Raises:
            BadRow: with the reason.
        """
        path, name = self._found(value, folders)
        claimed = format_of(name)
        key = f"{path}\n{claimed}"
        if key not in self._by_path:
            self._by_path[key] = self._look(path, claimed)
        picture, reason = self._by_path[key]
        if picture is None:
            raise BadRow(f"the picture {shown(name) or 'in the row'} {reason}")
        return picture

    def add_video(self, value: Any, folders: Sequence[Path]) -> list[Picture]:
        """Take the frames of a clip, unless it is known, and remember them, in order.

        Arguments are those of `add`.

        Raises:
            BadRow: with the reason.
        """
        path, name = self._found(value, folders)
        name = shown(name) or "in the row"
        try:
            if (size := path.stat().st_size) > self._settings.max_bytes:
                raise BadRow(f"the video {name} has {size} bytes, over pictures.max_bytes ({self._settings.max_bytes})")
            content = path.read_bytes()
        except OSError as e:
            raise BadRow(f"the video {name} cannot be read ({e.strerror})") from None
        key = _digest(content)
        if key not in self._by_clip and self._videos is not None:
            clip = frames(content, name, self._videos, self._settings.max_pixels)
            self._by_clip[key] = [self._keep(Decoded(*encoded(frame), frame, ()), b"", path) for frame in clip]
        return self._by_clip[key]

    def settle(self) -> None:
        """Find the families, once all pictures have been added."""
        family = {pixels: pixels for pixels in self._pixels()}
        if self._settings.near is not None:
            names = sorted(self._sketches)  # whatever the order of the rows, one picture stands for the family
            firsts = likeness.families([self._sketches[name] for name in names], self._settings.near)
            family = {name: names[first] for name, first in zip(names, firsts, strict=True)}
        for picture, _ in self._kept.values():
            picture.family = family[picture.pixels]

    def write(self, path: Path, names: Iterable[str]) -> dict[str, Any]:
        """Write the archive of these pictures.

        Returns:
            What the report says of them: how many files, their `bytes`, the longer side of each in pixels (`sides`),
            and what had to be changed, of how many (`converted`).

        Raises:
            DataError: a file has changed since it was looked at.
        """
        sides, converted, size = [], Counter[str](), 0
        with zipfile.ZipFile(path / MEDIA, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(set(names)):
                kept = self._kept[name][1]
                try:
                    content = kept.path.read_bytes()
                except OSError as e:
                    raise DataError(f"{kept.path}: cannot be read again ({e.strerror})") from None
                if _digest(content) != Path(name).stem:
                    raise DataError(f"{kept.path}: changed while the data was made; run the stage again")
                archive.writestr(zipfile.ZipInfo(name), content)  # ZipInfo has a fixed date: the bytes are the same
                size += len(content)
                sides.append(kept.longer_side)
                converted.update(kept.changes)
        return {"files": len(sides), "bytes": size, "sides": sides, "converted": dict(sorted(converted.items()))}

    def _pixels(self) -> set[str]:
        return {picture.pixels for picture, _ in self._kept.values()}

    @staticmethod
    def _found(value: Any, folders: Sequence[Path]) -> tuple[Path, str]:
        """Return the path of a picture and the name to call it by. Raises BadRow."""
        if isinstance(value, Blob):
            return value.path, value.name
        if isinstance(value, dict) and value.get("bytes") is None and set(value) <= {"bytes", "path"}:
            value = value.get("path")
        if not isinstance(value, str):
            what = "null" if value is None else type(value).__name__
            raise BadRow(f"a picture is {what}; expected the name of a file, or bytes")
        if not value.strip():
            raise BadRow("the name of a picture is empty")
        name = shown(value)
        if value.startswith("data:"):
            raise BadRow(f"the picture {name[:20]}… is written out in its address; save it as a file, and name that")
        if "://" in value:
            raise BadRow(f"the picture {name} is an address; download it, and name the file")
        try:
            paths = [(folder / value).resolve() for folder in folders]
            inside = [p for p in paths if any(p.is_relative_to(folder.resolve()) for folder in folders)]
            path = next((p for p in inside if p.exists()), inside[0] if inside else paths[0])
            mode = path.stat().st_mode if inside else None
        except (FileNotFoundError, NotADirectoryError):
            raise BadRow(f"the picture {name} is not in {folders[0]}") from None
        except OSError as e:
            raise BadRow(f"the picture {name} is no path ({e.strerror})") from None
        except (RuntimeError, ValueError):  # a link that leads back to itself, a NUL, half of a surrogate pair
            raise BadRow(f"the picture {name} is no path that can be followed") from None
        if mode is None:
            raise BadRow(
                f"the picture {name} lies outside {folders[0]}; put it there, or set the source's `media` to a folder "
                f"above it"
            )
        if not stat.S_ISREG(mode):
            raise BadRow(
                f"the picture {name} is {'a folder' if stat.S_ISDIR(mode) else 'a pipe or device'}, not a file"
            )
        return path, value

    def _look(self, path: Path, claimed: str | None) -> tuple[Picture | None, str]:
        """Return the picture in a file, or why there is none."""
        try:
            size = path.stat().st_size
            if size == 0:
                return None, "has 0 bytes"
            if size > self._settings.max_bytes:
                return None, f"has {size} bytes, over pictures.max_bytes ({self._settings.max_bytes})"
            content = path.read_bytes()
        except OSError as e:
            return None, f"cannot be read ({e.strerror})"
        key = _digest(content), claimed
        if key not in self._by_content:
            self.decoded += 1
            try:
                picture = self._keep(decode(content, claimed, self._settings.max_pixels), content, path)
                self._by_content[key] = picture, ""
            except Unfit as e:
                self._by_content[key] = None, str(e)
        return self._by_content[key]

    def _keep(self, decoded: Decoded, content: bytes, path: Path) -> Picture:
        image = decoded.image
        name = f"{_digest(decoded.content)}{decoded.suffix}"
        if name not in self._kept:
            pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:32]
            if self._settings.near is not None and pixels not in self._sketches:
                self._sketches[pixels] = likeness.sketch(image)
            if decoded.content is not content:
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / name
                path.write_bytes(decoded.content)
            kept = _Kept(path, len(decoded.content), max(image.size), decoded.changes)
            self._kept[name] = Picture(name, pixels, flat=likeness.is_flat(image)), kept
        return self._kept[name][0]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
