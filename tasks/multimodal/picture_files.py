"""One picture's file: decoded whole, checked, and brought to what trainers read, 8 bits of RGB the right way up.

What cannot be decoded, moves, is larger than the recipe allows or is called what it is not is refused with a reason.
What a person sees is kept: CMYK, 16 bits, palettes, transparency (on white) and the EXIF orientation become plain RGB
in a PNG. A file about which nothing is special is kept byte for byte.
"""

import io
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEPT = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""Formats that are kept as they are where nothing about them is special."""
READ = (*KEPT, "GIF", "BMP", "TIFF")
"""Formats that are read at all: each of them is a grid of pixels, and none can hold a program."""
SUFFIXES = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF",
}  # fmt: skip
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned."""
TURNED = range(2, 9)
"""Its values that turn or mirror; 1 leaves a picture as it is, and others mean nothing."""
SMALLEST_BOUND = 1 << 20
"""Pixels that a decoder may always set aside: the tiles of a small TIFF are larger than its picture."""
HEAD = 4096
"""Bytes at the beginning of a file in which a text format shows."""
SHOWN = 120
"""Characters of a name that a message repeats."""


class Unfit(ValueError):
    """A file that cannot be used; the message is what follows its name, e.g. `has 0 bytes`."""


@dataclass(frozen=True)
class Decoded:
    """A picture that can be used."""

    content: bytes
    """The file to keep."""
    suffix: str
    """Its suffix, with the dot."""
    image: Any
    """What it shows, a `PIL.Image.Image` in RGB."""
    changes: tuple[str, ...]
    """What had to be changed, e.g. `CMYK`; empty where `content` is the file as it came."""


def shown(name: Any) -> str:
    """Write a picture's name for a message: in one line, not too long, and without what no terminal prints."""
    text = " ".join(str(name).encode("utf-8", errors="replace").decode().split())
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def format_of(name: str) -> str | None:
    """Return the format that a file's name claims; None where it claims none that is known here."""
    return SUFFIXES.get(Path(name).suffix.lower())


def decode(content: bytes, claimed: str | None, max_pixels: int) -> Decoded:
    """Decode a picture whole.

    Args:
        content: its file.
        claimed: the format that its name claims, of `SUFFIXES`; None where it has no such name.
        max_pixels: most pixels that are decoded.

    Raises:
        Unfit: it is no picture, is cut short, has too many pixels, moves, or is called what it is not.
    """
    from PIL import Image, UnidentifiedImageError

    _refuse_text(content)
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max(max_pixels, SMALLEST_BOUND)  # asked by the decoders before they set memory aside
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and the like
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(content, claimed, max_pixels)
    except Unfit:
        raise
    except UnidentifiedImageError:
        raise Unfit(f"is no picture of a kind that is read ({', '.join(READ)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        declared = re.search(r"\((\d+) pixels", str(e))
        many = f"{declared[1]} pixels" if declared else "more pixels"
        raise Unfit(f"declares {many}, over pictures.max_pixels ({max_pixels}); scale it down") from None
    except Exception as e:  # decoders of files from anywhere raise every kind there is
        reason = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(e).split()))[:SHOWN]
        raise Unfit(f"cannot be decoded ({type(e).__name__}: {reason}); is it cut off?") from None
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _decode(content: bytes, claimed: str | None, max_pixels: int) -> Decoded:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=READ) as opened:
        # A camera's JPEG may hold a second picture behind the first: a preview, or a map of brightness.
        kind = "JPEG" if opened.format == "MPO" else str(opened.format)
        _check_header(opened, kind, claimed, max_pixels)
        changes = _changes(opened)
        profile = opened.info.get("icc_profile") if opened.mode in ("RGB", "RGBA", "P") else None
        opened.load()
        _check_size(opened.size, max_pixels)
        image = _turned(_rgb(opened), _orientation(opened))
    image.info = {}
    if kind in KEPT and not changes:
        return Decoded(content, KEPT[kind], image, ())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", icc_profile=profile)
    return Decoded(buffer.getvalue(), ".png", image, tuple(changes))


def _refuse_text(content: bytes) -> None:
    """Raise Unfit for what is text where a picture should be."""
    head = content[:HEAD]
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(wbits=31).decompress(content[: 4 * HEAD], HEAD)
        except zlib.error:
            return
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or head[:2] in (b"<\x00", b"\x00<"):
        head = head.replace(b"\x00", b"")
    head = head.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in head:
        raise Unfit("is SVG, which is a program and no grid of pixels; render it to PNG")
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"<!--")):
        raise Unfit("is a page of HTML or XML; was a server's message saved in its place?")


def _check_header(opened: Any, kind: str, claimed: str | None, max_pixels: int) -> None:
    _check_size(opened.size, max_pixels)
    if claimed not in (None, kind):
        raise Unfit(f"is a {kind} by its content; name it so, or look at where it comes from")
    if opened.format != "MPO" and getattr(opened, "is_animated", False):
        if kind == "TIFF":
            raise Unfit("has several pages; save the page that is meant")
        raise Unfit("moves, with several frames; save the frame that is meant, or use a video")
    if opened.mode in ("I", "F"):
        raise Unfit("has 32 bits a pixel, of which no reader knows the white; save it with 8 or 16")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise Unfit(f"has {width} x {height} pixels, over pictures.max_pixels ({max_pixels}); scale it down")


def _changes(opened: Any) -> list[str]:
    """Name what about a picture that is not loaded yet is not plain RGB or grey of 8 bits, the right way up."""
    mode = opened.mode
    changes = []
    if mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in opened.tile):
        changes.append("16 bit")
    if mode in ("P", "PA"):
        changes.append("palette")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in opened.info:
        changes.append("transparency")
    elif mode == "1":
        changes.append("1 bit")
    elif mode not in ("RGB", "L", "P") and not mode.startswith("I;16"):
        changes.append(mode)
    if _orientation(opened) in TURNED:
        changes.append("turned by EXIF")
    return changes


def _orientation(opened: Any) -> int:
    """Return how a picture is to be turned, by EXIF; 1, as it is, where that is damaged."""
    try:
        value = opened.getexif().get(ORIENTATION, 1)
    except Exception:  # a viewer shows the picture all the same
        return 1
    return value if isinstance(value, int) else 1


def _turned(image: Any, orientation: int) -> Any:
    from PIL.Image import Transpose

    turns = (
        Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
        Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90,
    )  # fmt: skip
    return image.transpose(turns[orientation - 2]) if orientation in TURNED else image


def _rgb(image: Any) -> Any:
    """Return a picture as RGB: on white where it is transparent, from 16 bits by division."""
    from PIL import Image

    clear = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        import numpy as np

        values = np.asarray(image).astype(np.uint32)
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return Image.fromarray(np.where(values == clear, 255, grey).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBa", "La"):
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode])
    if image.mode in ("RGBA", "LA", "PA") or clear is not None:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
