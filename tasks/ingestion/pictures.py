"""Pictures of a data artifact: looked at once, named by their content, and kept in one archive.

A picture comes as a file that a row names, or as bytes inside a row. It is opened and decoded whole before it may
train anything, so that a truncated file, a bomb or a page of HTML called `.jpg` costs one row, named by file and line,
and no training run. Its name is the hash of the bytes that are kept; what it shows is compared by its pixels, and by a
difference hash (`near`), so that the same picture, encoded again or scaled, stays on one side of a split.

`media.zip` holds the files uncompressed, so that any of them can be read, or looked at, by itself.
"""

import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.ingestion.values import BadRow
from tasks.ingestion.videos import VideoSettings, encoded, frames
from tasks.stage.config import Strict
from tasks.stage.data_folder import MEDIA

KEPT = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""Formats that are kept as they are where nothing about them is special."""
READ = (*KEPT, "GIF", "BMP", "TIFF")
"""Formats that are read at all: each of them is a grid of pixels, and none can hold a program."""
SUFFIXES = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF",
}  # fmt: skip
GRID = 16
"""Side of the difference hash, which has GRID * GRID bits."""
BAND = 16
"""Bits of one band of the hash: two hashes that differ in fewer places than there are bands agree in one of them."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned."""


class PictureSettings(Strict):
    """The section `pictures:` of a data.yaml whose rows have pictures."""

    max_pixels: int = Field(gt=0)
    """Most pixels of a picture, width times height; one with more is a bad row, and is not decoded."""
    max_bytes: int = Field(gt=0)
    """Most bytes of a picture's file."""
    near: int | None = Field(ge=0, lt=GRID * GRID // BAND)
    """Most of the 256 bits of the difference hash in which two pictures differ that count as one; null compares
    pixels alone, as is right for small drawings that resemble each other by nature."""


@dataclass(frozen=True)
class Blob:
    """Bytes that stood in a row, put down in a file until the row is mapped."""

    path: Path
    """Where they lie."""
    name: str
    """The name that they came with, or the empty string."""


@dataclass(frozen=True)
class Picture:
    """One picture of the archive."""

    name: str
    """Its name in the archive."""
    pixels: str
    """Hash of the pixels: equal for what is the same picture in another lossless encoding."""
    family: str
    """`pixels` of the first picture that it resembles, which may be itself."""


class Pictures:
    """The pictures of one data artifact, while it is made."""

    def __init__(self, folder: Path, settings: PictureSettings, videos: VideoSettings | None = None) -> None:
        """Args: folder: of the artifact; settings: bounds and likeness; videos: which frames are taken of a clip."""
        self._settings = settings
        self._videos = videos
        self._archive = zipfile.ZipFile(folder / MEDIA, "w", zipfile.ZIP_STORED)
        self._by_source: dict[str, Picture] = {}
        self._names: set[str] = set()
        self._bands: dict[tuple[int, int], list[tuple[int, str]]] = {}
        self._families: dict[str, str] = {}
        self._by_name: dict[str, Picture] = {}
        self.converted: Counter[str] = Counter()
        """What was changed, to how many pictures: `CMYK`, `16 bit`, `turned by EXIF`."""
        self.bytes = 0
        """Bytes in the archive."""
        self.sides: list[int] = []
        """The longer side of each picture, in pixels."""

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._names)

    def close(self) -> None:
        """Finish the archive."""
        self._archive.close()

    def named(self, name: str) -> Picture:
        """Return the picture of that name."""
        return self._by_name[name]

    def add(self, value: Any, folder: Path) -> Picture:
        """Look at a picture and keep it.

        Args:
            value: a file's name, or a `Blob`.
            folder: where named files lie; a name that leads out of it is refused.

        Raises:
            BadRow: with the reason.
        """
        path, name = self._found(value, folder)
        key = str(path)
        if key not in self._by_source:
            self._by_source[key] = self._look(path, name)
        return self._by_source[key]

    def add_video(self, value: Any, folder: Path) -> list[Picture]:
        """Take the frames of a clip and keep them, in order. Arguments and errors are those of `add`."""
        path, name = self._found(value, folder)
        if (size := path.stat().st_size) > self._settings.max_bytes or self._videos is None:
            raise BadRow(f"the video {name} has {size} bytes, over pictures.max_bytes ({self._settings.max_bytes})")
        kept = []
        for frame in frames(path.read_bytes(), name, self._videos, self._settings.max_pixels):
            content, suffix = encoded(frame)
            kept.append(self._keep(content, suffix, frame, []))
        return kept

    def _found(self, value: Any, folder: Path) -> tuple[Path, str]:
        if isinstance(value, Blob):
            return value.path, value.name
        if not isinstance(value, str) or not value.strip():
            raise BadRow(f"a picture is {type(value).__name__}; expected the name of a file, or bytes")
        if "://" in value:
            raise BadRow(f"the picture {value} is an address; download it, and name the file")
        path = folder / value
        try:
            inside = path.resolve().is_relative_to(folder.resolve())
            there = path.is_file()
        except (OSError, ValueError) as e:
            raise BadRow(f"the picture {value!r} is no path ({e})") from None
        if not inside:
            raise BadRow(f"the picture {value} lies outside {folder}; set the source's `media` to a folder above it")
        if not there:
            raise BadRow(f"the picture {value} is not in {folder}")
        return path, value

    def _look(self, path: Path, name: str) -> Picture:
        size = path.stat().st_size
        shown = name or "in the row"
        if size == 0:
            raise BadRow(f"the picture {shown} has 0 bytes")
        if size > self._settings.max_bytes:
            raise BadRow(f"the picture {shown} has {size} bytes, over pictures.max_bytes ({self._settings.max_bytes})")
        content = path.read_bytes()
        kept, suffix, image, changes = decode(content, name, self._settings.max_pixels)
        return self._keep(kept, suffix, image, changes)

    def _keep(self, kept: bytes, suffix: str, image: Any, changes: list[str]) -> Picture:
        """Put a picture into the archive, unless it is there."""
        pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:32]
        stored = f"{hashlib.sha256(kept).hexdigest()[:32]}{suffix}"
        picture = Picture(stored, pixels, self._family(pixels, image))
        if stored not in self._names:
            self._names.add(stored)
            self._archive.writestr(zipfile.ZipInfo(stored), kept)  # ZipInfo has a fixed date: the bytes are the same
            self.bytes += len(kept)
            self.sides.append(max(image.size))
            self.converted.update(changes)
            self._by_name[stored] = picture
        return self._by_name[stored]

    def _family(self, pixels: str, image: Any) -> str:
        if pixels in self._families or self._settings.near is None:
            return self._families.setdefault(pixels, pixels)
        code = difference_hash(image)
        bands = [(i, code >> BAND * i & (1 << BAND) - 1) for i in range(GRID * GRID // BAND)]
        for band in bands:
            for other, family in self._bands.get(band, ()):
                if (other ^ code).bit_count() <= self._settings.near:
                    self._families[pixels] = family
                    return family
        for band in bands:
            self._bands.setdefault(band, []).append((code, pixels))
        self._families[pixels] = pixels
        return pixels


def decode(content: bytes, name: str, max_pixels: int) -> tuple[bytes, str, Any, list[str]]:
    """Decode a picture whole.

    Args:
        content: its file.
        name: its name, for messages and its suffix; empty where it has none.
        max_pixels: most pixels that are decoded.

    Returns:
        The bytes to keep and their suffix, the picture as RGB (`PIL.Image.Image`), and what had to be changed.

    Raises:
        BadRow: it is no picture, is cut short, has too many pixels, moves, or is called what it is not.
    """
    from PIL import Image, ImageOps

    shown = name or "in the row"
    if _is_svg(content):
        raise BadRow(f"the picture {shown} is SVG, which is a program and no grid of pixels; render it to PNG")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is asked before anything is decoded
    try:
        with Image.open(io.BytesIO(content), formats=READ) as opened:
            kind = str(opened.format)
            _check_header(opened, shown, kind, max_pixels)
            frames = getattr(opened, "n_frames", 1)
            if frames > 1:
                raise BadRow(
                    f"the picture {shown} moves ({frames} frames); save the frame that is meant, or use a video"
                )
            opened.load()
            changes = _special(opened)
            turned = ImageOps.exif_transpose(opened)
            image = _rgb(turned)
    except BadRow:
        raise
    except Exception as e:  # decoders of files from anywhere raise every kind there is
        reason = " ".join(str(e).split())[:120]
        raise BadRow(f"the picture {shown} cannot be decoded ({type(e).__name__}: {reason}); is it cut off?") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if kind in KEPT and not changes:
        return content, KEPT[kind], image, changes
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), ".png", image, changes


def _is_svg(content: bytes) -> bool:
    head = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith(b"<svg") or (head.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in head)


def _check_header(opened: Any, shown: str, kind: str, max_pixels: int) -> None:
    width, height = opened.size
    if width * height > max_pixels:
        raise BadRow(
            f"the picture {shown} has {width} x {height} pixels, over pictures.max_pixels ({max_pixels}); scale it down"
        )
    suffix = Path(shown).suffix.lower()
    if SUFFIXES.get(suffix, kind) != kind:
        raise BadRow(f"the picture {shown} is a {kind} by its content; name it so, or look at where it comes from")


def _special(opened: Any) -> list[str]:
    """Name what about a picture is not plain RGB or grey of 8 bits, the right way up."""
    mode = opened.mode
    changes = []
    if mode == "CMYK":
        changes.append("CMYK")
    elif mode.startswith(("I", "F")):
        changes.append("16 bit")
    elif mode not in ("RGB", "L"):
        changes.append({"P": "palette", "1": "1 bit"}.get(mode, "transparency" if "A" in mode else mode))
    if opened.getexif().get(ORIENTATION, 1) != 1:
        changes.append("turned by EXIF")
    return changes


def _rgb(image: Any) -> Any:
    """Return a picture as RGB: on white where it is transparent, from 16 bits by division."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        import numpy as np

        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype("uint8"))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def difference_hash(image: Any) -> int:
    """Hash what a picture looks like: whether each of 16 x 16 places is brighter than its neighbour to the right.

    Scaling, light compression and a change of brightness leave most of the 256 bits as they are (the dHash of
    N. Krawetz, 2013, with 16 places a side in place of 8).

    Args:
        image: an RGB picture.
    """
    import numpy as np
    from PIL import Image

    grey = np.asarray(image.convert("L").resize((GRID + 1, GRID), Image.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(grey[:, :-1] > grey[:, 1:])
    return int.from_bytes(bits.tobytes(), "big")


def spill(row: dict[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """Put the bytes of a row into files, so that a source of many pictures is not held in memory.

    Bytes are Parquet's binary values, the `{bytes, path}` of `datasets`, and lists of either. Other rows are returned
    as they are.

    Args:
        row: columns to values.
        folder: where to write.
        number: of the row, which names the files.
    """
    places = [name for name, value in row.items() if _blobs(value)]
    if not places:
        return row
    folder.mkdir(parents=True, exist_ok=True)
    spilt = dict(row)
    for name in places:
        value = row[name]
        values = value if isinstance(value, list) else [value]
        blobs = [_write(item, folder / f"{number}-{len(places)}-{name}-{i}") for i, item in enumerate(values)]
        spilt[name] = blobs if isinstance(value, list) else blobs[0]
    return spilt


def _blobs(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_blobs(item) for item in value)
    return isinstance(value, bytes | bytearray) or (
        isinstance(value, dict) and set(value) == {"bytes", "path"} and isinstance(value["bytes"], bytes)
    )


def _write(value: Any, path: Path) -> Blob:
    content = value["bytes"] if isinstance(value, dict) else value
    name = (value["path"] or "") if isinstance(value, dict) else ""
    path.write_bytes(content)
    return Blob(path, Path(str(name)).name)


def raw_values(template: Any, row: dict[str, Any]) -> list[Any]:
    """List the values that a row has where the map's `images` names columns, e.g. `["{left}", "{right}"]`.

    Raises:
        BadRow: no such column, nothing in it, or something else than the name of a column in braces.
    """
    items: Iterable[Any] = template if isinstance(template, list) else [template]
    values: list[Any] = []
    for item in items:
        name = item[1:-1] if isinstance(item, str) and item[:1] == "{" and item[-1:] == "}" else None
        if name is None:
            values.append(item)
            continue
        if row.get(name) is None:
            raise BadRow(f"'{name}' is null, and should be a picture" if name in row else f"no column '{name}'")
        values += row[name] if isinstance(row[name], list) else [row[name]]
    return values
