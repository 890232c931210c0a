"""The sounds of a request: their bytes, and what is heard of them."""

import base64
import binascii
import io
from typing import Any

from flows.serving.media import MAX_BYTES, Media, MediaError

MAX_SECONDS = 120.0
"""Seconds of the longest sound that is taken; of a longer one no more is decoded."""
RATE = 16_000
"""Hz of the sample."""


def inline(payload: str, place: str) -> bytes:
    """Read the file that an `input_audio` holds in base64.

    Args:
        payload: its `data`.
        place: of the part in the body.

    Raises:
        MediaError: too many bytes, or no base64.
    """
    if len(payload) > MAX_BYTES * 4 // 3 + 4:
        raise MediaError(f"'{place}' has more than {MAX_BYTES} bytes; send a shorter sound", place, "audio_too_large")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as e:
        raise MediaError(f"'{place}' holds no valid base64 ({e}); encode the file again", place, "invalid_audio") from e


def decoded(media: Media, sampling_rate: int) -> Any:
    """Decode a sound as the data stage does, `[samples]` (float32).

    Its format is told by its bytes: what a client calls it is not asked.

    Args:
        media: the sound.
        sampling_rate: Hz, to which it is brought.

    Raises:
        MediaError: it is no sound, cut short, silent, or lasts too long.
    """
    import numpy as np

    from tasks.multimodal.picture_files import Unfit
    from tasks.multimodal.sound_files import decode

    try:
        samples = decode(media.content, None, sampling_rate, MAX_SECONDS, 0.0).samples
    except Unfit as e:
        reason = str(e).partition(": no sample is above")[0].replace("sounds.max_seconds", "the bound of this server")
        raise MediaError(f"'{media.place}': the sound {reason}", media.place, "invalid_audio") from None
    return samples.astype(np.float32) / 2**15


def sample() -> Media:
    """Return a second of a tone, by which a model shows that its ears work."""
    import numpy as np
    import soundfile

    buffer = io.BytesIO()
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    soundfile.write(buffer, tone, RATE, format="WAV", subtype="PCM_16")
    return Media("audio", buffer.getvalue(), "the sample")
