"""Clips as pictures in order: frames taken at a rate, no more than a bound, decoded by PyAV (FFmpeg's libraries)."""

import io
from typing import Any

from pydantic import Field

from tasks.ingestion.values import BadRow
from tasks.stage.config import Strict

SMALL = 128 * 128
"""Pixels of a frame up to which it is kept as PNG, without loss; a larger one is kept as JPEG of quality 95."""


class VideoSettings(Strict):
    """The section `videos:` of a data.yaml whose rows have clips."""

    fps: float = Field(gt=0)
    """Frames taken of each second."""
    max_frames: int = Field(gt=1)
    """Most frames of a clip; a longer one is sampled evenly from beginning to end."""


def frames(content: bytes, name: str, settings: VideoSettings, max_pixels: int) -> list[Any]:
    """Decode a clip's frames, `PIL.Image.Image` in RGB, in order.

    Never more than twice `max_frames` are held in memory, however long the clip is. A clip that is to be shown turned,
    as telephones film, is turned.

    Args:
        content: its file.
        name: its name, for messages; empty where it has none.
        settings: rate and bound.
        max_pixels: most pixels of a frame.

    Raises:
        BadRow: it is no video, is cut short, has too many pixels, or no frame.
    """
    import av

    shown = name or "in the row"
    taken: list[Any] = []
    interval, due = 1 / settings.fps, 0.0
    try:
        with av.open(io.BytesIO(content), "r") as container:
            if not container.streams.video:
                raise BadRow(f"the video {shown} has no pictures")
            rate = float(container.streams.video[0].average_rate or 0)
            for number, frame in enumerate(container.decode(video=0)):
                if frame.width * frame.height > max_pixels:
                    raise BadRow(
                        f"the video {shown} has {frame.width} x {frame.height} pixels, over pictures.max_pixels "
                        f"({max_pixels}); scale it down"
                    )
                if frame.time is None and not rate:
                    raise BadRow(f"the video {shown} has neither times nor a rate; write it anew, with one of them")
                time = float(frame.time) if frame.time is not None else number / rate
                if time + 1e-6 < due:
                    continue
                picture = frame.to_image()
                taken.append(picture.rotate(frame.rotation, expand=True) if frame.rotation else picture)
                due = (time if not taken[:-1] else due) + interval
                if len(taken) == 2 * settings.max_frames:  # every other one, and half as often from here on
                    taken, interval = taken[::2], interval * 2
                    due = time + interval / 2
    except BadRow:
        raise
    except Exception as e:  # decoders of files from anywhere raise every kind there is
        reason = " ".join(str(e).split())[:120]
        raise BadRow(f"the video {shown} cannot be decoded ({type(e).__name__}: {reason}); is it cut off?") from None
    if not taken:
        raise BadRow(f"the video {shown} has no frame")
    if len(taken) > settings.max_frames:
        last = len(taken) - 1
        taken = [taken[round(k * last / (settings.max_frames - 1))] for k in range(settings.max_frames)]
    return taken


def encoded(frame: Any) -> tuple[bytes, str]:
    """Write a frame as a file: its bytes and its suffix."""
    buffer = io.BytesIO()
    if frame.size[0] * frame.size[1] <= SMALL:
        frame.save(buffer, "PNG")
        return buffer.getvalue(), ".png"
    frame.save(buffer, "JPEG", quality=95)
    return buffer.getvalue(), ".jpg"
