"""Pictures of a data artifact: looked at once, named by their content, and kept in one archive.

A picture comes as a file that a row names, or as bytes inside a row. It is opened and decoded whole before it may
train anything, so that a truncated file, a bomb or a page of HTML called `.jpg` costs one row, named by file and line,
and no training run. Its name is the hash of the bytes that are kept; what it shows is compared by its pixels and, with
`near`, by what the eye sees, so that the same picture, encoded again or scaled, stays on one side of a split.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.ingestion import perceptual_hash
from tasks.ingestion.media_files import digest, find, read
from tasks.ingestion.values import BadRow
from tasks.ingestion.videos import VideoSettings, encoded, frames
from tasks.multimodal.picture_files import Decoded, Unfit, decode, format_of, shown
from tasks.stage.config import Strict


class PictureSettings(Strict):
    """The section `pictures:` of a data.yaml whose rows have pictures."""

    max_pixels: int = Field(gt=0)
    """Most pixels of a picture, width times height; one with more is a bad row, and is not decoded."""
    max_bytes: int = Field(gt=0)
    """Most bytes of a picture's file."""
    near: int | None = Field(ge=0, le=perceptual_hash.MOST)
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
            settings: bounds and perceptual_hash.
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
        path, name = find(value, folders, "picture")
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
        path, name = find(value, folders, "video")
        name = shown(name) or "in the row"
        try:
            content = read(path, self._settings.max_bytes, "pictures.max_bytes")
        except Unfit as e:
            raise BadRow(f"the video {name} {e}") from None
        key = digest(content)
        if key not in self._by_clip and self._videos is not None:
            clip = frames(content, name, self._videos, self._settings.max_pixels)
            self._by_clip[key] = [self._keep(Decoded(*encoded(frame), frame, ()), b"", path) for frame in clip]
        return self._by_clip[key]

    def settle(self) -> None:
        """Find the families, once all pictures have been added."""
        family = {pixels: pixels for pixels in self._pixels()}
        if self._settings.near is not None:
            names = sorted(self._sketches)  # whatever the order of the rows, one picture stands for the family
            firsts = perceptual_hash.families([self._sketches[name] for name in names], self._settings.near)
            family = {name: names[first] for name, first in zip(names, firsts, strict=True)}
        for picture, _ in self._kept.values():
            picture.family = family[picture.pixels]

    def files(self, names: Iterable[str]) -> dict[str, Path]:
        """Return where the files of these pictures lie, by name; other names are left out."""
        return {name: self._kept[name][1].path for name in names if name in self._kept}

    def facts(self, names: Iterable[str]) -> dict[str, Any]:
        """Say what the report says of these pictures.

        Returns:
            How many files, their `bytes`, the longer side of each in pixels (`sides`), and what had to be changed, of
            how many (`converted`).
        """
        kept = [self._kept[name][1] for name in sorted(set(names))]
        converted = Counter(change for k in kept for change in k.changes)
        return {
            "files": len(kept),
            "bytes": sum(k.size for k in kept),
            "sides": [k.longer_side for k in kept],
            "converted": dict(sorted(converted.items())),
        }

    def _pixels(self) -> set[str]:
        return {picture.pixels for picture, _ in self._kept.values()}

    def _look(self, path: Path, claimed: str | None) -> tuple[Picture | None, str]:
        """Return the picture in a file, or why there is none."""
        try:
            content = read(path, self._settings.max_bytes, "pictures.max_bytes")
        except Unfit as e:
            return None, str(e)
        key = digest(content), claimed
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
        name = f"{digest(decoded.content)}{decoded.suffix}"
        if name not in self._kept:
            pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:32]
            if self._settings.near is not None and pixels not in self._sketches:
                self._sketches[pixels] = perceptual_hash.sketch(image)
            if decoded.content is not content:
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / name
                path.write_bytes(decoded.content)
            kept = _Kept(path, len(decoded.content), max(image.size), decoded.changes)
            self._kept[name] = Picture(name, pixels, flat=perceptual_hash.is_flat(image)), kept
        return self._kept[name][0]
