"""Helpers: sounds that are made by rule, their files in every form that is odd, and a data recipe that has them."""

import io
from typing import Any

import numpy as np
import soundfile

from tests.support.data_stage import EVAL, SFT, recipe, rows

RATE = 8_000
SOUNDS: dict[str, Any] = {"sampling_rate": RATE, "max_seconds": 2.0, "max_bytes": 400_000, "silence": 0.01}
HEARD = SFT | {"audio": ["{clip}"]}
ASKED = EVAL | {"audio": ["{clip}"]}
PAGE = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>"


def played(seed: int, seconds: float = 0.25, rate: int = RATE) -> Any:
    """A chord like no other, `[samples]` (float64), its loudest at half of full scale, each of them a 16-bit value."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    waves = sum(np.sin(2 * np.pi * rng.uniform(100, 900) * time + rng.uniform(0, 6)) for _ in range(3))
    return np.rint(2**14 * waves / np.abs(waves).max()) / 2**15


def encoded(samples: Any, kind: str = "WAV", subtype: str | None = None, rate: int = RATE) -> bytes:
    """The file of a sound, `[samples]` or `[samples, channels]`."""
    buffer = io.BytesIO()
    if subtype in (None, "PCM_16") and kind in ("WAV", "FLAC") and samples.dtype == np.float64:
        samples = np.clip(np.rint(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)  # else its scale is 2**15 - 1
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def flac(seed: int, seconds: float = 0.25) -> bytes:
    """A chord in the form in which a sound is kept."""
    return encoded(played(seed, seconds), "FLAC", "PCM_16")


def channels(count: int, seed: int = 0) -> Any:
    """A chord in the first channel of several, and silence in the others, `[samples, channels]`."""
    samples = np.zeros((RATE // 4, count))
    samples[:, 0] = played(seed)
    return samples


def still(before: float, after: float, seed: int = 0) -> Any:
    """A chord of a quarter of a second, with seconds of silence around it."""
    return np.concatenate([np.zeros(round(before * RATE)), played(seed), np.zeros(round(after * RATE))])


def declared_longer(seconds: float) -> bytes:
    """A FLAC of some bytes whose header declares this length."""
    content = bytearray(flac(0))
    total = round(seconds * RATE)
    content[21] = content[21] & 0xF0 | total >> 32
    content[22:26] = (total & 0xFFFF_FFFF).to_bytes(4, "big")
    return bytes(content)


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Names of files to their content, and a part of the reason why no row may have them."""
    long = played(1, 1.0)
    wav, ogg, mp3 = encoded(long), encoded(long, "OGG", "VORBIS"), encoded(long, "MP3")
    nan, infinite = played(2), played(2)
    nan[100], infinite[-1] = np.nan, -np.inf
    return {
        "cut.wav": (wav[: len(wav) // 2], "is cut off: 7978 of 16000 bytes"),
        "head.wav": (wav[:30], "cannot be decoded"),
        "cut.flac": (flac(1)[:-10], "cannot be decoded"),
        "cut.mp3": (mp3[: len(mp3) // 2], "is cut off"),
        "cut.ogg": (ogg[: len(ogg) // 2], "is it cut off?"),
        "last.ogg": (ogg[:-10], "is damaged, or cut off"),
        "damaged.ogg": (ogg[:-500] + bytes(100) + ogg[-400:], "is damaged, or cut off"),
        "damaged.flac": (flac(1)[:-500] + bytes(100) + flac(1)[-400:], "cannot be decoded"),
        "empty.wav": (b"", "has 0 bytes"),
        "nothing.wav": (encoded(np.zeros(0)), "has no samples"),
        "nan.wav": (encoded(nan, "WAV", "FLOAT"), "no number (NaN or infinite)"),
        "infinite.wav": (encoded(infinite, "WAV", "DOUBLE"), "no number (NaN or infinite)"),
        "silent.wav": (encoded(np.zeros(RATE)), "is silent throughout"),
        "whisper.flac": (encoded(0.01 * played(3), "FLAC"), "no sample is above sounds.silence (0.01 of full scale)"),
        "opposed.wav": (encoded(np.stack([played(4), -played(4)], axis=1)), "is silent throughout"),
        "long.wav": (encoded(played(5, 2.5)), "lasts 2.5 s, over sounds.max_seconds (2)"),
        "hours.flac": (declared_longer(36_000.0), "lasts 36000.0 s, over sounds.max_seconds (2)"),
        "short_of.flac": (declared_longer(1.0), "is it cut off?"),
        "heavy.wav": (encoded(played(6)) + bytes(400_000), "over sounds.max_bytes (400000)"),
        "really_mp3.wav": (mp3, "holds MP3 by its content"),
        "really_wav.mp3": (wav, "holds WAV by its content"),
        "page.wav": (PAGE, "is a page of HTML"),
        "words.mp3": (b"There is no such recording. " * 40, "is no sound of a kind that is read (WAV, FLAC, MP3, Ogg)"),
        "noise.flac": (np.random.default_rng(0).bytes(500), "is no sound of a kind that is read"),
        "old.aiff": (encoded(long, "AIFF"), "is AIFF, of no kind that is read"),
        "fast.wav": (encoded(played(7), rate=1_500_000), "has 1500000 samples a second"),
    }


def spoken(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows without sounds, each like no other."""
    return [{"question": f"What is said in {i}?", "answer": f"Kind {i * 37}."} for i in range(first, first + count)]


def hearing(template: dict[str, Any] = HEARD, **changes: Any) -> dict[str, Any]:
    """A recipe of one source, `mine`, that becomes an `sft` set with sounds; no row is held out for tests."""
    base = {
        "split": {"validation": 0.3, "test": 0.0},
        "max_bad_share": 1.0,
        "sounds": SOUNDS,
        "sets": {"sft": {"near_duplicates": False, "rows": [rows("mine", template)]}},
    }
    return recipe(**(base | changes))
