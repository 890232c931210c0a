"""Sounds of a data artifact: decoded once, named by their content, and kept as FLAC of one form.

A sound comes as a file that a row names, or as bytes inside a row. It is decoded whole before it may train anything, so
that a file that is cut off, silent, or a page of HTML called `.wav` costs one row, named by file and line. Two files
with equal samples are the same sound, and stay on one side of a split.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.ingestion.media_files import digest, find, read
from tasks.ingestion.values import BadRow
from tasks.multimodal.picture_files import Unfit, shown
from tasks.multimodal.sound_files import PLAIN, Decoded, decode, format_of
from tasks.stage.config import Strict

CLIPPED = 0.001
"""Share of a sound's samples at full scale, 0 to 1, above which it counts as clipped."""
LONG_SILENCE = 1.0
"""Seconds of silence at one edge above which it counts as long; so does half of a sound at both edges together."""
STEP = 0.25
"""Seconds of the shortest bin of the histogram."""


class SoundSettings(Strict):
    """The section `sounds:` of a data.yaml whose rows have sounds."""

    sampling_rate: int = Field(ge=1_000, le=192_000)
    """Samples a second, in Hz, of every sound that is kept; others are resampled once."""
    max_seconds: float = Field(gt=0)
    """Seconds of the longest sound; a longer one is a bad row, and is not decoded."""
    max_bytes: int = Field(gt=0)
    """Most bytes of a sound's file."""
    silence: float = Field(ge=0, lt=1)
    """Magnitude, of full scale, up to which a sample counts as silent. Silence is reported and stays."""


@dataclass(frozen=True)
class Sound:
    """One sound."""

    name: str
    """Its name in the archive."""
    samples: str
    """Hash of the samples: equal for what is the same sound in another file."""

    @property
    def family(self) -> str:
        """The sounds that it is one with: those of equal samples."""
        return self.samples


@dataclass(frozen=True)
class _Kept:
    """A sound's file until the archive is written, and what the report says of it."""

    path: Path
    size: int
    seconds: float
    rate: int
    channels: int
    encoding: str
    clipped: bool
    long_silence: bool


class Sounds:
    """The sounds of one data artifact, while it is made."""

    def __init__(self, folder: Path, settings: SoundSettings) -> None:
        """Begin with none.

        Args:
            folder: for sounds that had to be changed, until the archive is written.
            settings: form and bounds.
        """
        self._folder = folder
        self._settings = settings
        self._by_path: dict[tuple[Path, str | None], Sound | str] = {}
        self._by_content: dict[tuple[str, str | None], Sound | str] = {}
        self._kept: dict[str, _Kept] = {}
        self.decoded = 0
        """How many files have been decoded."""

    def add(self, value: Any, folders: Sequence[Path]) -> Sound:
        """Decode a sound, unless it is known, and remember it.

        Args:
            value: a file's name, a `Blob`, or a mapping with a file's name under `path`.
            folders: where named files may lie; a name that leads out of them is refused.

        Raises:
            BadRow: with the reason.
        """
        path, name = find(value, folders, "sound")
        key = path, format_of(name)
        if key not in self._by_path:
            self._by_path[key] = self._listen(*key)
        found = self._by_path[key]
        if isinstance(found, str):
            raise BadRow(f"the sound {shown(name) or 'in the row'} {found}")
        return found

    def files(self, names: Iterable[str]) -> dict[str, Path]:
        """Return where the files of these sounds lie, by name; other names are left out."""
        return {name: self._kept[name].path for name in names if name in self._kept}

    def facts(self, names: Iterable[str]) -> dict[str, Any]:
        """Say what the report says of these sounds.

        Returns:
            How many `files`, their `bytes` and `seconds`; how many were `resampled` by their rate, `mixed_down` by
            their channels, `converted` by their encoding; how many are `clipped`, or have a `long_silence` at an edge.
        """
        kept = [self._kept[name] for name in sorted(set(names))]
        rates = Counter(k.rate for k in kept if k.rate != self._settings.sampling_rate)
        channels = Counter(k.channels for k in kept if k.channels != 1)
        encodings = Counter(k.encoding for k in kept if k.encoding != PLAIN)
        return {
            "files": len(kept),
            "bytes": sum(k.size for k in kept),
            "sampling_rate": self._settings.sampling_rate,
            "seconds": histogram([k.seconds for k in kept]) if kept else {},
            "resampled": {f"{rate} Hz": n for rate, n in sorted(rates.items())},
            "mixed_down": {f"{count} channels": n for count, n in sorted(channels.items())},
            "converted": dict(sorted(encodings.items())),
            "clipped": sum(k.clipped for k in kept),
            "long_silence": sum(k.long_silence for k in kept),
        }

    def _listen(self, path: Path, claimed: str | None) -> Sound | str:
        """Return the sound in a file, or why there is none."""
        try:
            content = read(path, self._settings.max_bytes, "sounds.max_bytes")
            key = digest(content), claimed
            if key not in self._by_content:
                self.decoded += 1
                self._by_content[key] = self._keep(self._decode(content, claimed), content, path)
            return self._by_content[key]
        except Unfit as e:
            return str(e)

    def _decode(self, content: bytes, claimed: str | None) -> Decoded:
        of = self._settings
        return decode(content, claimed, of.sampling_rate, of.max_seconds, of.silence)

    def _keep(self, decoded: Decoded, content: bytes, path: Path) -> Sound:
        name = f"{digest(decoded.content)}.flac"
        if name not in self._kept:
            if decoded.content is not content:
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / name
                path.write_bytes(decoded.content)
            seconds = len(decoded.samples) / self._settings.sampling_rate
            still = max(decoded.silence) > LONG_SILENCE or sum(decoded.silence) > seconds / 2
            self._kept[name] = _Kept(
                path,
                len(decoded.content),
                seconds,
                decoded.rate,
                decoded.channels,
                decoded.encoding,
                decoded.clipped > CLIPPED,
                still,
            )
        return Sound(name, hashlib.sha256(decoded.samples.tobytes()).hexdigest()[:32])


def histogram(seconds: Sequence[float]) -> dict[str, Any]:
    """Count lengths in bins that double: `bins` [upper bound, count], `total`, `median`, `p95`, `longest`, seconds."""
    ordered = sorted(seconds)
    counts = Counter(STEP * (1 << max(0, ceil(s / STEP) - 1).bit_length()) for s in ordered)
    return {
        "bins": [[upper, counts[upper]] for upper in sorted(counts)],
        "total": round(sum(ordered), 3),
        "median": round(ordered[len(ordered) // 2], 3),
        "p95": round(ordered[int(len(ordered) * 0.95)], 3),
        "longest": round(ordered[-1], 3),
    }
