"""One sound's file: decoded whole, checked, and brought to what models hear, FLAC of 16 bits and one channel.

WAV, FLAC, MP3 and Ogg (Vorbis, Opus) are read by `soundfile`. What cannot be decoded, is cut short, is longer than the
recipe allows, holds no number or no sound, or is called what it is not is refused with a reason. Channels are averaged,
and another sampling rate is changed to the recipe's by a polyphase filter. A FLAC of that form is kept byte for byte.
"""

import io
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tasks.multimodal.picture_files import Unfit

SUFFIXES = {".wav": "WAV", ".wave": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".ogg": "Ogg", ".oga": "Ogg", ".opus": "Ogg"}
READ = {"WAV": "WAV", "WAVEX": "WAV", "RF64": "WAV", "FLAC": "FLAC", "MP3": "MP3", "OGG": "Ogg"}
"""Formats that are read, as `soundfile` calls them, and by their usual names."""
ENCODINGS = {
    "PCM_16": "16 bit", "PCM_U8": "8 bit", "PCM_S8": "8 bit", "PCM_24": "24 bit", "PCM_32": "32 bit",
    "FLOAT": "32 bit float", "DOUBLE": "64 bit float", "MPEG_LAYER_III": "MP3", "VORBIS": "Vorbis", "OPUS": "Opus",
    "ULAW": "mu-law", "ALAW": "A-law",
}  # fmt: skip
PLAIN = "16 bit"
"""The encoding that needs no conversion."""
FULL_SCALE = {"8 bit": 1 - 2**-7, "mu-law": 0.98, "A-law": 0.98}
"""Magnitude, of 1, of the loudest sample of an encoding."""
LOUDEST = 1 - 2**-15
"""The same of all others."""
RATES = range(1_000, 384_001)
"""Sampling rates that are read, in Hz; another one is that of a damaged header."""
LARGEST = 10_000
"""Largest number in the ratio of two rates. Usual rates have an exact one; others are off by a ten-thousandth at most.
"""
AT_ONCE = 1 << 20
"""Samples that are decoded at once."""
STREAMED = 0x7FFF_0000
"""Bytes of a WAV from which its size means: written to a pipe, length unknown."""
UNKNOWN = 1 << 62
"""Samples from which a FLAC's number means the same; libsndfile cannot read such a file."""
VARIABLE = 4
"""Times that the length of an MP3 is overestimated, at most, where its header says none."""


@dataclass(frozen=True)
class Decoded:
    """A sound that can be used."""

    content: bytes
    """The file to keep, a FLAC."""
    samples: Any
    """What is heard, `[samples]` (int16), at the recipe's sampling rate."""
    rate: int
    """Sampling rate of the file as it came, in Hz."""
    channels: int
    """Its channels."""
    encoding: str
    """How its samples were written, of `ENCODINGS`."""
    clipped: float
    """Share of its samples that are at full scale, 0 to 1."""
    silence: tuple[float, float]
    """Seconds of silence at its beginning and end."""


def format_of(name: str) -> str | None:
    """Return the format that a file's name claims; None where it claims none that is known here."""
    return SUFFIXES.get(Path(name).suffix.lower())


def decode(content: bytes, claimed: str | None, sampling_rate: int, max_seconds: float, silence: float) -> Decoded:
    """Decode a sound whole.

    Args:
        content: its file.
        claimed: the format that its name claims, of `SUFFIXES`; None where it has no such name.
        sampling_rate: Hz of what is kept.
        max_seconds: seconds of the longest sound; of a longer one the header alone is read.
        silence: magnitude, of full scale, up to which a sample is silent.

    Raises:
        Unfit: it is no sound, is cut short, too long, silent, holds what is no number, or is called what it is not.
    """
    import numpy as np
    import soundfile

    _refuse_page(content)
    try:
        with soundfile.SoundFile(_Forward(content)) as opened:
            kind = READ.get(opened.format)
            if kind is None:
                raise Unfit(f"is {opened.format}, of no kind that is read ({_kinds()})")
            if claimed not in (None, kind):
                raise Unfit(f"holds {kind} by its content; name it so, or look at where it comes from")
            if opened.samplerate not in RATES:
                raise Unfit(f"has {opened.samplerate} samples a second; {RATES[0]} to {RATES[-1]} are read")
            _refuse_cut(kind, content)
            encoding = ENCODINGS.get(opened.subtype, opened.subtype)
            declared, rate, channels = opened.frames, opened.samplerate, opened.channels
            mono, clipped = _read(opened, kind, content, max_seconds, FULL_SCALE.get(encoding, LOUDEST))
    except soundfile.LibsndfileError as e:
        if e.code == 1:  # SF_ERR_UNRECOGNISED_FORMAT
            raise Unfit(f"is no sound of a kind that is read ({_kinds()})") from None
        raise Unfit(f"cannot be decoded ({_reason(e)}); is it cut off?") from None
    if not len(mono):
        raise Unfit("has no samples")
    samples = np.clip(np.rint(_resampled(mono, rate, sampling_rate) * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    edges = _edges(samples, silence, sampling_rate)
    if (kind, encoding, rate, channels, declared) != ("FLAC", PLAIN, sampling_rate, 1, len(mono)):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, sampling_rate, format="FLAC", subtype="PCM_16")
        content = buffer.getvalue()
    return Decoded(content, samples, rate, channels, encoding, clipped, edges)


class _Forward(io.BytesIO):
    """A file that stays at its beginning where libsndfile, misled by a damaged header, goes before it."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: len(self.getbuffer())}[whence]
        return super().seek(max(0, start + offset))


def _kinds() -> str:
    return ", ".join(dict.fromkeys(READ.values()))


def _reason(error: Any) -> str:
    """Return libsndfile's own words; of an MP3 without one whole frame it says that it may be a pipe."""
    words = " ".join(str(error.error_string).split()).rstrip(".")
    return "no frame of it" if "pipe" in words else words


def _refuse_page(content: bytes) -> None:
    head = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"<!--")):
        raise Unfit("is a page of HTML or XML; was a server's message saved in its place?")


def _read(opened: Any, kind: str, content: bytes, max_seconds: float, full_scale: float) -> tuple[Any, float]:
    """Return a sound's samples, `[samples]` (float64), and the share of them at full scale."""
    import numpy as np

    declared, most = opened.frames, int(max_seconds * opened.samplerate)
    estimated = kind == "MP3" and not _says_its_length(content)
    if declared >= UNKNOWN:
        raise Unfit("does not say its length; encode it again, into a file")
    if declared > most * (VARIABLE if estimated else 1):
        raise Unfit(f"lasts {declared / opened.samplerate:.1f} s, over sounds.max_seconds ({max_seconds:g})")
    # An MP3 is decoded in one go: libsndfile seeks between two reads, which leaves a mark in what is heard.
    step = most + 1 if kind == "MP3" else max(1, AT_ONCE // opened.channels)
    parts, length, full = [], 0, 0
    while len(block := opened.read(min(step, most + 1 - length), dtype="float64", always_2d=True)):
        if not np.isfinite(block).all():
            raise Unfit("has samples that are no number (NaN or infinite)")
        full += int((np.abs(block) >= full_scale).sum())
        parts.append(block.mean(axis=1))
        length += len(block)
    if length > most:
        raise Unfit(f"lasts longer than sounds.max_seconds ({max_seconds:g})")
    if estimated and length >= declared > 0:
        raise Unfit("is an MP3 of a varying rate that does not say its length; encode it again")
    if not estimated and length < declared:
        raise Unfit(f"is cut off: {length} of {declared} samples are there")
    return np.concatenate(parts) if parts else np.zeros(0), full / max(1, length * opened.channels)


def _resampled(mono: Any, rate: int, sampling_rate: int) -> Any:
    """Return samples at another rate, by a ratio of small numbers: the filter has 20 taps for each unit of them."""
    if rate == sampling_rate:
        return mono
    from scipy.signal import resample_poly

    low, high = sorted((rate, sampling_rate))
    ratio = Fraction(low, high).limit_denominator(LARGEST)
    up, down = ratio.as_integer_ratio() if low == sampling_rate else ratio.as_integer_ratio()[::-1]
    return resample_poly(mono, up, down)


def _edges(samples: Any, silence: float, rate: int) -> tuple[float, float]:
    """Return the seconds of silence at both edges. Raises Unfit when nothing else is there."""
    import numpy as np

    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > silence * 2**15)
    if not len(loud):
        raise Unfit(f"is silent throughout: no sample is above sounds.silence ({silence:g} of full scale)")
    return int(loud[0]) / rate, (len(samples) - 1 - int(loud[-1])) / rate


def _refuse_cut(kind: str, content: bytes) -> None:
    """Raise Unfit for a file that ends early; libsndfile takes the rest of a WAV or an Ogg for the whole."""
    if kind == "WAV" and content[:4] != b"RIFX":
        at = 12
        while at + 8 <= len(content):
            size = int.from_bytes(content[at + 4 : at + 8], "little")
            if content[at : at + 4] == b"data":
                if at + 8 + size > len(content) and size < STREAMED:
                    raise Unfit(f"is cut off: {len(content) - at - 8} of {size} bytes of samples are there")
                return
            at += 8 + size + size % 2
    if kind == "Ogg" and not _is_whole_ogg(content):
        raise Unfit("is damaged, or cut off before its last page")


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _is_whole_ogg(content: bytes) -> bool:
    """Whether all pages of an Ogg file have their checksum (RFC 3533), and the last one ends the stream."""
    at, ended = 0, False
    while content[at : at + 4] == b"OggS" and len(content) >= at + 27:
        lacing = content[at + 27 : at + 27 + content[at + 26]]
        end = at + 27 + len(lacing) + sum(lacing)
        page = content[at : at + 22] + b"\0" * 4 + content[at + 26 : end]
        # zlib's polynomial with the bits of every byte, and of the sum, the other way round
        crc = zlib.crc32(page.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
        if int(f"{crc:032b}"[::-1], 2) != int.from_bytes(content[at + 22 : at + 26], "little"):
            return False
        at, ended = end, bool(content[at + 5] & 4)
    return ended


def _says_its_length(content: bytes) -> bool:
    """Whether the first frame of an MP3 tells how many follow, as LAME and FFmpeg write it."""
    at = 0
    if content[:3] == b"ID3" and len(content) >= 10:
        size = 0
        for byte in content[6:10]:
            size = size << 7 | byte & 0x7F
        at = 10 + size
    return any(mark in content[at : at + 200] for mark in (b"Xing", b"Info", b"VBRI"))
