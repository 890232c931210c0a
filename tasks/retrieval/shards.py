"""Vectors that other stages made: the chunks of an index, embedded in shards by document, an artifact each.

An artifact of `tasks/rag_embed.py`, `artifacts/vectors/<index>/<index>-<k>of<n>/`, has three files:

    vectors.npy     float32 [texts, dimensions], of length 1
    keys.npy        uint8 [texts, 32], the SHA-256 of each vector's text, ascending
    vectors.json    {"shard": 1, "shards": 2, "encoder": "51f2…", "embed_titles": false, "batch_size": 32, "threads": 1,
                     "dimensions": 384, "chunks": 5012, "texts": 4987}

A vector depends on its text, the encoder and the settings alone (`tasks/retrieval/encoder.py`), so it does not matter
in which shard a text was embedded, nor whether in one at all.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tasks.retrieval import embeddings
from tasks.stage import artifact
from tasks.stage.config import Strict
from tasks.stage.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

FILE, VECTORS, KEYS = "vectors.json", "vectors.npy", "keys.npy"
BLOCK = 8_192
"""Vectors that are in memory at once while they are written."""
SETTINGS = ("encoder", "embed_titles", "batch_size", "threads")
"""What decides a vector besides its text."""


class Description(Strict):
    """`vectors.json`."""

    shard: int
    """Which part of the documents, from 1."""
    shards: int
    """Number of parts."""
    encoder: str
    """Identity of the encoder, `tasks.retrieval.encoder.digest`."""
    embed_titles: bool
    """Whether the headings above a chunk were embedded with it."""
    batch_size: int
    """Chunks that were embedded at a time."""
    threads: int
    """Threads of torch."""
    dimensions: int
    """Of a vector, all that the encoder gives."""
    chunks: int
    """Chunks of the shard's documents."""
    texts: int
    """Different texts among them: the number of vectors."""


def holds(shard: int, shards: int, document: str) -> bool:
    """Whether a document belongs to shard number `shard`, from 1: by its id alone, whatever others there are."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8]) % shards == shard - 1


def write(folder: Path, described: Description, keys: Sequence[bytes], vectors: embeddings.Vectors | None) -> None:
    """Write a shard's files.

    Args:
        folder: where they go.
        described: `vectors.json`; its `texts` and `dimensions` are the shape.
        keys: of the texts, ascending.
        vectors: of the texts, in the same order; None where there is no text.
    """
    import numpy as np

    np.save(folder / KEYS, np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, embeddings.KEY))
    shape = (described.texts, described.dimensions)
    stored = np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype=np.float32, shape=shape)
    if vectors is not None:
        for start in range(0, len(keys), BLOCK):
            stored[start : start + BLOCK] = vectors.take(start, min(start + BLOCK, len(keys)))
    stored.flush()
    artifact.write_json(folder / FILE, described.model_dump(mode="json"))


class Shards:
    """The vectors of any number of shards, mapped into memory."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Args: folders: of artifacts that fit each other."""
        import numpy as np

        self._keys = [np.load(folder / KEYS, mmap_mode="r") for folder in folders]
        self._vectors = [np.load(folder / VECTORS, mmap_mode="r") for folder in folders]

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, Any], params_file: Path) -> "Shards":
        """Open the shards in a folder.

        Args:
            folder: of artifacts, or one artifact.
            settings: of the index that they are for: a value for each key of `SETTINGS`.
            params_file: its recipe file, for messages.

        Raises:
            ArtifactError: none there, or files of another version.
            ConfigError: two of them, or one and the index, are of different encoders, settings or numbers of shards.
        """
        folders = [folder] if (folder / FILE).exists() else sorted(path.parent for path in folder.glob(f"*/{FILE}"))
        if not folders:
            raise ArtifactError(f"{folder}: no {FILE} in it or in a folder of it; `polm run` makes them")
        first, *others = [(one, _described(one / FILE)) for one in folders]
        for other, described in others:
            if found := _difference(described, first[1].model_dump(), ("shards", *SETTINGS)):
                key, own, expected = found
                raise ConfigError(
                    f"{first[0]} and {other}: {key} is {expected} and {own}, so they are no parts of one index; delete "
                    f"the one that the recipe's graph does not name, and run `polm run`"
                )
        if found := _difference(first[1], settings, SETTINGS):
            key, own, expected = found
            raise ConfigError(
                f"{first[0]}: {key} is {own}, and {params_file} with its encoder asks for {expected}; make the shards "
                f"anew (`polm run --target rag_embed`)"
            )
        return cls(folders)

    def __len__(self) -> int:
        return len(self._keys)

    def vectors(self, texts: Sequence[str], embed: Callable[[Sequence[str]], embeddings.Vectors]) -> "Known":
        """Find the vectors of texts, and embed those that no shard has.

        Args:
            texts: at least one.
            embed: gives the vectors of texts, at least one.
        """
        import numpy as np

        wanted = np.frombuffer(b"".join(map(embeddings.key, texts)), dtype=f"S{embeddings.KEY}")
        shard = np.full(len(texts), -1)
        rows = np.zeros(len(texts), dtype=np.int64)
        for at, keys in enumerate(self._keys):
            names = np.ascontiguousarray(keys).view(wanted.dtype).ravel()  # of one length: the bytes' own order
            if len(names):
                places = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
                found = (names[places] == wanted) & (shard < 0)
                shard[found], rows[found] = at, places[found]
        missing = [texts[row] for row in np.flatnonzero(shard < 0).tolist()]
        rows[shard < 0] = np.arange(len(missing))
        return Known(self._vectors, shard, rows, embed(missing) if missing else None)


class Known:
    """Vectors of texts, from shards and of those that had to be embedded."""

    def __init__(
        self,
        stored: Sequence["NDArray[float32]"],
        shard: "NDArray[int64]",
        rows: "NDArray[int64]",
        rest: embeddings.Vectors | None,
    ) -> None:
        """Args: stored: vectors of each shard; shard: of each text, -1 for the rest; rows: in it; rest: the others."""
        self._stored, self._shard, self._rows, self._rest = stored, shard, rows, rest
        self.embedded = rest.embedded if rest is not None else 0
        """Number of texts that had to be embedded."""
        self.missing = int((shard < 0).sum())
        """Number of texts that no shard has, equal ones counted each."""

    def take(self, start: int, end: int) -> "NDArray[float32]":
        """Read the vectors of a range of the texts, float32 of shape [end - start, dimensions]."""
        import numpy as np

        shard, rows = self._shard[start:end], self._rows[start:end]
        made = np.empty((len(rows), self._stored[0].shape[1]), dtype=np.float32)
        for at, vectors in enumerate(self._stored):
            made[shard == at] = vectors[rows[shard == at]]
        if self._rest is not None and (left := rows[shard < 0]).size:
            made[shard < 0] = self._rest.take(int(left[0]), int(left[-1]) + 1)  # they lie in the order of the texts
        return made


def _described(path: Path) -> Description:
    try:
        return Description.model_validate(artifact.read_json(path))
    except (ValidationError, ValueError) as e:
        raise ArtifactError(f"{path}: of another version ({e}); delete its folder and run `polm run`") from None


def _difference(
    described: Description, expected: Mapping[str, Any], keys: Sequence[str]
) -> tuple[str, Any, Any] | None:
    """Return the first key with another value than expected, with both values."""
    own = described.model_dump()
    return next(((key, own[key], expected[key]) for key in keys if own[key] != expected[key]), None)
