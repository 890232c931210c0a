"""Clips as frames: which are taken, and what is no clip."""

import io
from typing import Any

import av
import numpy as np
import pytest

from tasks.ingestion.values import BadRow
from tasks.ingestion.videos import SMALL, VideoSettings, encoded, frames


def film(count: int, rate: int = 10, size: tuple[int, int] = (32, 24), **stream_options: Any) -> bytes:
    """A clip whose frame `i` is grey of brightness `i`."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "gray"
        for name, value in stream_options.items():
            setattr(stream, name, value)
        for i in range(count):
            field = np.full((size[1], size[0]), i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(field, format="gray")))
        container.mux(stream.encode())
    return buffer.getvalue()


def brightness(content: bytes, fps: float, most: int) -> list[int]:
    taken = frames(content, "film.mkv", VideoSettings(fps=fps, max_frames=most), 1_000_000)
    assert {frame.mode for frame in taken} == {"RGB"}
    return [frame.getpixel((0, 0))[0] for frame in taken]


@pytest.mark.parametrize(
    ("fps", "most", "expected"),
    [
        (10, 100, list(range(20))),
        (5, 100, list(range(0, 20, 2))),
        (2, 100, [0, 5, 10, 15]),
        (0.5, 100, [0]),
        (30, 100, list(range(20))),
    ],
)
def test_frames_are_taken_at_the_rate(fps: float, most: int, expected: list[int]) -> None:
    assert brightness(film(20), fps, most) == expected


@pytest.mark.parametrize("count", [9, 40, 100, 250])
def test_a_long_clip_is_sampled_evenly_from_beginning_to_end(count: int) -> None:
    taken = brightness(film(count), 10, 8)
    assert len(taken) == 8
    assert taken[0] == 0
    assert taken[-1] >= count * 0.75
    gaps = np.diff(taken)
    assert gaps.min() > 0
    assert gaps.max() <= 2 * gaps.min() + 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be decoded"),
        (b"<html>not found</html>", "cannot be decoded"),
        (film(5)[:300], "cannot be decoded|has no frame"),
        (film(5, size=(2000, 2000)), "has 2000 x 2000 pixels, over pictures.max_pixels"),
    ],
)
def test_what_is_no_clip_is_a_bad_row(content: bytes, reason: str) -> None:
    with pytest.raises(BadRow, match=f"the video clip.mp4 ({reason})"):
        frames(content, "clip.mp4", VideoSettings(fps=2, max_frames=4), 1_000_000)


def test_sound_alone_has_no_pictures() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(BadRow, match="has no pictures"):
        frames(buffer.getvalue(), "", VideoSettings(fps=2, max_frames=4), 1_000_000)


def test_small_frames_lose_nothing_and_large_ones_little() -> None:
    settings = VideoSettings(fps=1, max_frames=2)
    small, large = (frames(film(1, size=size), "", settings, 4 * SMALL)[0] for size in ((32, 24), (200, 200)))
    assert encoded(small)[1] == ".png"
    assert encoded(large)[1] == ".jpg"
