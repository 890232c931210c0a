"""What the rows of a data artifact show and sound like: which sets have media, and the stores of what they have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.ingestion.ledger import Ledger, histogram
from tasks.ingestion.mapping import AUDIO, IMAGES, MEDIA, VIDEO
from tasks.ingestion.media_columns import values_of
from tasks.ingestion.media_files import write_archive
from tasks.ingestion.pictures import Picture, Pictures, PictureSettings
from tasks.ingestion.settings import Rows, Set
from tasks.ingestion.sounds import Sound, Sounds, SoundSettings
from tasks.ingestion.videos import VideoSettings
from tasks.stage.errors import DataError

NEEDED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "pictures": ("pictures", (IMAGES, VIDEO), "{max_pixels: 4_000_000, max_bytes: 10_000_000, near: 8}"),
    "videos": ("clips", (VIDEO,), "{fps: 2, max_frames: 16}"),
    "sounds": ("sounds", (AUDIO,), "{sampling_rate: 16000, max_seconds: 30, max_bytes: 10_000_000, silence: 0.01}"),
}
"""Section of a data.yaml to what a set has that needs it, the keys of a map by which it has it, and an example."""


@dataclass(frozen=True)
class RowMedia:
    """What one row has, in order."""

    pictures: tuple[Picture, ...] = ()
    """Its pictures, or the frames of its clip."""
    sounds: tuple[Sound, ...] = ()
    """Its sounds."""

    def columns(self) -> dict[str, list[str]]:
        """Return the columns of the row as it is written: names in the archive."""
        named = {IMAGES: [picture.name for picture in self.pictures], AUDIO: [sound.name for sound in self.sounds]}
        return {column: names for column, names in named.items() if names}


def has_media(spec: Set, keys: Iterable[str] = MEDIA) -> bool:
    """Whether the map of a set has any of these keys."""
    return any(not rows.map.keys().isdisjoint(keys) for rows in spec.rows)


class Media:
    """The pictures and sounds of one data artifact, while it is made."""

    def __init__(
        self,
        sets: Mapping[str, Set],
        pictures: PictureSettings | None,
        videos: VideoSettings | None,
        sounds: SoundSettings | None,
        folder: Path,
        where: Path,
    ) -> None:
        """Make the stores that the sets need.

        Args:
            sets: name to set.
            pictures: the recipe's section `pictures`.
            videos: the recipe's section `videos`.
            sounds: the recipe's section `sounds`.
            folder: for what has to be changed, until the archive is written.
            where: the recipe file, for messages.

        Raises:
            DataError: a set has pictures, clips or sounds, and the recipe no section that bounds them.
        """
        sections = {"pictures": pictures, "videos": videos, "sounds": sounds}
        for section, (what, keys, example) in NEEDED.items():
            name = next((name for name, spec in sets.items() if has_media(spec, keys)), None)
            if name is not None and sections[section] is None:
                raise DataError(
                    f"{where}: set '{name}' has {what}, and there is no section '{section}'; add it, e.g. "
                    f"`{section}: {example}`"
                )
        self.sets = [name for name, spec in sets.items() if has_media(spec)]
        """Names of the sets that have any."""
        used = {key for spec in sets.values() for key in MEDIA if has_media(spec, (key,))}
        self._pictures = Pictures(folder, pictures, videos) if pictures and used & {IMAGES, VIDEO} else None
        self._sounds = Sounds(folder, sounds) if sounds and AUDIO in used else None

    def of(self, spec: Rows, row: dict[str, Any], folders: tuple[Path, ...]) -> RowMedia:
        """Look at, or listen to, what a row has, in whose folders its files may lie. Raises BadRow."""
        if self._pictures is not None and VIDEO in spec.map:
            clips = values_of(spec.map[VIDEO], row, "video")
            frames = [frame for clip in clips for frame in self._pictures.add_video(clip, folders)]
            return RowMedia(pictures=tuple(frames))
        if self._pictures is not None and IMAGES in spec.map:
            pictures = [self._pictures.add(value, folders) for value in values_of(spec.map[IMAGES], row, "picture")]
            return RowMedia(pictures=tuple(pictures))
        if self._sounds is not None and AUDIO in spec.map:
            sounds = [self._sounds.add(value, folders) for value in values_of(spec.map[AUDIO], row, "sound")]
            return RowMedia(sounds=tuple(sounds))
        return RowMedia()

    def settle(self) -> None:
        """Find the families of pictures, once all have been added."""
        if self._pictures is not None:
            self._pictures.settle()

    def write(self, out: Path, names: set[str], ledger: Ledger) -> None:
        """Write the archive of the files with these names, and tell the ledger of them; none where no set has media."""
        if self._pictures is None and self._sounds is None:
            return
        files: dict[str, Path] = {}
        if self._pictures is not None:
            shown = self._pictures.files(names)
            facts = self._pictures.facts(shown)
            sizes = histogram(facts.pop("sides")) if shown else {}
            ledger.pictures = {**facts, "pixels_of_longer_side": sizes}
            files |= shown
        if self._sounds is not None:
            heard = self._sounds.files(names)
            ledger.sounds = self._sounds.facts(heard)
            files |= heard
        write_archive(out, files)
