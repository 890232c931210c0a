"""Which reader a folder's prompts take."""

from pathlib import Path

from tasks.export.multimodal_reader import Reader
from tasks.export.multimodal_session import is_hearing
from tasks.export.sound_reader import SoundReader


def open_reader(folder: Path) -> Reader | SoundReader:
    """Open a form's reader, of pictures or of sounds. Raises ModelError as these do."""
    return SoundReader(folder) if is_hearing(folder) else Reader(folder)
