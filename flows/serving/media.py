"""What a request shows beside its words: where the bytes come from, and how many are taken.

Bytes come inside the request (a `data:` URL), or from a file below the folder that the operator names. An address on
the web is never fetched: whoever may ask this server could else let it read what only this machine can reach. Pictures
and sounds (`flows/serving/sounds.py`) are decoded by the process that holds the model.
"""

import base64
import binascii
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from tasks.stage.errors import DataError

MOST = 8
"""Pictures and sounds that a request may hold."""
MAX_BYTES = 10_000_000
"""Bytes of a picture's or a sound's file that are taken."""
MAX_PIXELS = 20_000_000
"""Pixels of a picture; one with more is refused before it is decoded."""
MAGIC = {
    b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"BM": "image/bmp",
    b"II*\0": "image/tiff", b"MM\0*": "image/tiff", b"fLaC": "audio/flac", b"OggS": "audio/ogg", b"ID3": "audio/mpeg",
    **{bytes([0xFF, second]): "audio/mpeg" for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)},
}  # fmt: skip
"""Beginnings of files to their types (MP3: MPEG 1, 2 and 2.5); WebP's and WAV's come after a length."""


class MediaError(DataError):
    """Something that a request shows cannot be used."""

    def __init__(self, message: str, place: str, code: str) -> None:
        """Say what is wrong.

        Args:
            message: what, and what to do.
            place: of the part in the body, e.g. `messages[0].content[1]`.
            code: word for programs.
        """
        super().__init__(message)
        self.place, self.code = place, code


@dataclass(frozen=True)
class Media:
    """A picture or a sound."""

    kind: Literal["image", "audio"]
    """Type of the part that stands for it in a message: `{"type": kind}`."""
    content: bytes
    """Its file."""
    place: str
    """Path of its part in the body, e.g. `messages[0].content[1]`."""

    def record(self) -> dict[str, Any]:
        """Describe it for a trace, without its bytes."""
        return {
            "type": self.kind,
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "bytes": len(self.content),
            "media_type": media_type(self.content),
        }


def media_type(content: bytes) -> str:
    """Tell what a file is by its beginning; `application/octet-stream` where that says nothing."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return "audio/wav"
    return next((kind for magic, kind in MAGIC.items() if content.startswith(magic)), "application/octet-stream")


def read(url: str, place: str, allowed: Path | None) -> bytes:
    """Read what an `image_url` names.

    Args:
        url: a `data:` URL, a `file:` URL, or the path of a file.
        place: of the part in the body.
        allowed: folder below which files may be read; None allows none.

    Raises:
        MediaError: an address on the web, a file that may not or cannot be read, too many bytes, or no base64.
    """
    scheme = url[:16].partition(":")[0].lower() if ":" in url[:16] else ""
    if scheme == "data":
        return _inline(url, place)
    if scheme in ("", "file"):
        return _file(url, place, allowed)
    raise MediaError(
        f"'{place}' names an address ({scheme}:), which this server never fetches; send the picture itself, as "
        f"data:image/png;base64,…",
        place,
        "unsupported_url",
    )


def _inline(url: str, place: str) -> bytes:
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise MediaError(f"'{place}' is no data: URL in base64; write data:image/png;base64,…", place, "invalid_image")
    if len(payload) > MAX_BYTES * 4 // 3 + 4:
        raise _too_large(place)
    try:
        content = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as e:
        raise MediaError(f"'{place}' holds no valid base64 ({e}); encode the file again", place, "invalid_image") from e
    return content


def _file(url: str, place: str, allowed: Path | None) -> bytes:
    if allowed is None:
        message = f"'{place}' names a file, and this server reads none; it does with `polm serve --allow-files DIR`"
        raise MediaError(message, place, "file_not_allowed")
    path = url
    if url[:5].lower() == "file:":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise MediaError(f"'{place}' names a file of another machine; send the picture", place, "file_not_allowed")
        path = unquote(parts.path)
    try:
        root = allowed.resolve()
        file = (root / path).resolve()  # links are followed before it is asked where they lead
        inside = file.is_relative_to(root)
        if not inside:
            message = f"'{place}' names a file outside of the folder that this server may read; copy it there"
            raise MediaError(message, place, "file_not_allowed")
        if not file.is_file():
            raise MediaError(f"'{place}' names no file below that folder; look at its name", place, "file_not_found")
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as e:  # of names with a NUL, and of links in a circle
        message = f"'{place}' names a file that cannot be read ({type(e).__name__}); look at it on the server"
        raise MediaError(message, place, "file_not_found") from e
    if len(content) > MAX_BYTES:
        raise _too_large(place)
    return content


def _too_large(place: str) -> MediaError:
    return MediaError(f"'{place}' has more than {MAX_BYTES} bytes; send a smaller picture", place, "image_too_large")


def decoded(media: Media) -> Any:
    """Decode a picture as the data stage does: a `PIL.Image.Image` in RGB, upright, on white where it is transparent.

    Raises:
        MediaError: it is no picture, cut short, moves, or has too many pixels.
    """
    from tasks.multimodal.picture_files import Unfit, decode

    try:
        return decode(media.content, None, MAX_PIXELS).image
    except Unfit as e:
        reason = str(e).replace("pictures.max_pixels", "the bound of this server")
        raise MediaError(f"'{media.place}': the picture {reason}", media.place, "invalid_image") from None


def sample() -> Media:
    """Return a small grey picture, by which a model shows that its eyes work."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(buffer, "PNG")
    return Media("image", buffer.getvalue(), "the sample")


def recorded(turns: Sequence[dict[str, Any]], media: Sequence[Media]) -> list[dict[str, Any]]:
    """Write a conversation for a trace: what is shown becomes its hash, size and type."""
    left = iter(media)
    written = []
    for turn in turns:
        content = turn["content"]
        if not isinstance(content, str):
            content = [part if part["type"] == "text" else next(left).record() for part in content]
        written.append({**turn, "content": content})
    return written


def timed(turns: Sequence[dict[str, Any]], seconds: Sequence[float]) -> list[dict[str, Any]]:
    """Add the length of each sound to a conversation that `recorded` wrote, once the model has heard them."""
    left = iter(seconds)
    written = []
    for turn in turns:
        content = turn["content"]
        if not isinstance(content, str):
            content = [
                {**part, "seconds": round(length, 3)}
                if part["type"] == "audio" and (length := next(left, None)) is not None
                else part
                for part in content
            ]
        written.append({**turn, "content": content})
    return written
