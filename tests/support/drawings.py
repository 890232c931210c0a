"""Helpers: drawn pictures, their files in every form that is odd, and a data recipe that shows them."""

import gzip
import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tests.support.data_stage import EVAL, SFT, recipe, rows

BOUNDS: dict[str, Any] = {"max_pixels": 250_000, "max_bytes": 1_000_000, "near": 8}
SHOWN = SFT | {"images": ["{picture}"]}
ASKED = EVAL | {"images": ["{picture}"]}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><rect width="9" height="9"/></svg>'


def drawn(seed: int, background: str = "") -> Image.Image:
    """A drawing of ellipses and rectangles, like no other; on white, or on a colour of its own."""
    rng = random.Random(seed)
    size = rng.randint(96, 240), rng.randint(96, 240)

    def colour() -> tuple[int, int, int]:
        return rng.randrange(256), rng.randrange(256), rng.randrange(256)

    image = Image.new("RGB", size, background or colour())
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 12)):
        x, y = rng.randint(-20, size[0] - 20), rng.randint(-20, size[1] - 20)
        box = (x, y, x + rng.randint(20, size[0]), y + rng.randint(20, size[1]))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour())
    return image


def plain(colour: Any, mode: str = "RGB", size: tuple[int, int] = (32, 24)) -> Image.Image:
    """A picture of one colour."""
    return Image.new(mode, size, colour)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(*colours: tuple[int, int, int]) -> Image.Image:
    """A picture whose left and right half differ, 40 x 20."""
    image = Image.new("RGB", (40, 20), colours[0])
    image.paste(colours[1], (20, 0, 40, 20))
    return image


def moving(kind: str) -> bytes:
    """A picture of two frames: `GIF`, `WEBP` or `PNG`."""
    return encoded(plain("red"), kind, save_all=True, append_images=[plain("blue")])


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    """Red on the left and blue on the right, with an orientation in its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(halves((255, 0, 0), (0, 0, 255)), kind, exif=exif)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def deep_png(values: Any) -> bytes:
    """A PNG of 16 bits from `[height, width]` or `[height, width, 3]`; Pillow writes no such colours."""
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if values.ndim == 2 else 2, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def bomb(kind: str) -> bytes:
    """A file of a few bytes that declares 30,000 x 30,000 pixels (WebP: all that it can, 16,383 x 16,383)."""
    side = 30_000
    if kind == "TIFF":
        content = bytearray(encoded(plain("red"), kind))
        for tag in (256, 257):  # width and height
            at = content.index(struct.pack("<HHI", tag, 4, 1))
            content[at : at + 12] = struct.pack("<HHII", tag, 4, 1, side)
        return bytes(content)
    if kind == "WEBP":
        content = bytearray(moving("WEBP"))
        at = content.index(b"VP8X") + 12
        content[at : at + 6] = struct.pack("<I", 16_382)[:3] * 2
        return bytes(content)
    content = bytearray(encoded(plain("red"), kind))
    if kind == "PNG":
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    elif kind == "JPEG":
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", side, side)
    elif kind == "GIF":
        content[6:10] = struct.pack("<HH", side, side)
    else:
        content[18:26] = struct.pack("<ii", side, side)
    return bytes(content)


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Names of files to their content, and a part of the reason why no row may show them."""
    jpeg = encoded(drawn(1), "JPEG")
    page = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>"
    text = SVG.decode()
    return {
        "cut.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "cut.png": (encoded(drawn(1))[:300], "cannot be decoded"),
        "empty.png": (b"", "has 0 bytes"),
        "bomb.png": (bomb("PNG"), "declares 900000000 pixels, over pictures.max_pixels (250000)"),
        "large.png": (encoded(plain("red", size=(501, 500))), "has 501 x 500 pixels, over pictures.max_pixels"),
        "heavy.png": (encoded(plain("red")) + b"\0" * 1_000_000, "over pictures.max_bytes (1000000)"),
        "really_a.png": (jpeg, "is a JPEG by its content"),
        "page.jpg": (page, "is a page of HTML"),
        "plain.svg": (SVG, "is SVG"),
        "mark.svg": (b"\xef\xbb\xbf" + SVG, "is SVG"),
        "packed.svg": (gzip.compress(SVG), "is SVG"),
        "wide.svg": (text.encode("utf-16"), "is SVG"),
        "wide_be.svg": (text.encode("utf-16-be"), "is SVG"),
        "late.svg": (b"<?xml version='1.0'?><!--" + b"x" * 2000 + b"-->" + SVG, "is SVG"),
        "named.png": (SVG, "is SVG"),
        "moving.gif": (moving("GIF"), "moves"),
        "moving.webp": (moving("WEBP"), "moves"),
        "moving.png": (moving("PNG"), "moves"),
        "pages.tif": (moving("TIFF"), "has several pages"),
        "depth.tif": (encoded(plain(0.5, "F"), "TIFF"), "has 32 bits a pixel"),
        "noise.jpg": (np.random.default_rng(0).bytes(500), "is no picture of a kind that is read"),
        "modern.avif": (b"\0\0\0\x1cftypavif" + b"\0" * 200, "is no picture of a kind that is read"),
    }


def asked(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows without pictures, each like no other."""
    return [
        {"question": f"What is in picture {i}?", "answer": f"Things of kind {i * 37}."}
        for i in range(first, first + count)
    ]


def showing(template: dict[str, Any] = SHOWN, near: int | None = 8, **changes: Any) -> dict[str, Any]:
    """A recipe of one source, `mine`, that becomes an `sft` set with pictures; no row is held out for tests."""
    base = {
        "split": {"validation": 0.3, "test": 0.0},
        "max_bad_share": 1.0,
        "pictures": BOUNDS | {"near": near},
        "sets": {"sft": {"near_duplicates": False, "rows": [rows("mine", template)]}},
    }
    return recipe(**(base | changes))


def save(folder: Path, name: str, content: bytes) -> str:
    """Write a file; its name."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return name
