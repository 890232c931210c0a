"""Vectors that were computed before, on this machine: a text is embedded once by one encoder.

The store is beside the artifacts and no part of one: `.polm/retrieval/embeddings/<digest of the encoder>/`, with
`keys`, SHA-256 of the texts, 32 bytes each, and `vectors`, float32 rows in the same order. Both grow at their ends, the
vectors first, so that a kill leaves at most vectors without a key, which the next write cuts off. One process writes at
a time, while others embed; a text that two embed at once stands there twice, with the same vector. It is safe to
delete, and an index made from it has the same bytes as one made without it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tasks.stage import locks
from tasks.stage.artifact import STATE

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

ROOT = STATE / "retrieval" / "embeddings"
KEY = hashlib.sha256().digest_size
BATCH = 2_048
"""Texts that are embedded between two writes."""
Embed = Callable[[Sequence[str]], "NDArray[float32]"]
"""Texts to vectors of shape [texts, dimensions]."""


class Vectors:
    """Vectors of texts, on the disk."""

    def __init__(self, path: Path, rows: "NDArray[int64]", dimensions: int, embedded: int) -> None:
        """Args: path: their file; rows: the text's places in it; dimensions; embedded: how many were not there."""
        import numpy as np

        self.rows = rows
        self.embedded = embedded
        """Number of texts that had to be embedded."""
        self._stored = np.memmap(path, dtype=np.float32, mode="r").reshape(-1, dimensions)

    def take(self, start: int, end: int) -> "NDArray[float32]":
        """Read the vectors of a range of the texts, float32 of shape [end - start, dimensions]."""
        import numpy as np

        return np.ascontiguousarray(self._stored[self.rows[start:end]])


def name(encoder: str, how: int | str, threads: int) -> str:
    """Name the store of an encoder's vectors, by all that decides their bits.

    Args:
        encoder: its identity, `tasks.retrieval.encoder.digest`.
        how: texts that are embedded at a time, or `queries`.
        threads: of torch and BLAS.
    """
    return hashlib.sha256(f"{encoder} {how} {threads}".encode()).hexdigest()


def vectors(texts: Sequence[str], dimensions: int, encoder: str, embed: Embed, root: Path = ROOT) -> Vectors:
    """Return the vectors of texts, embedding those alone that this encoder never embedded here.

    Args:
        texts: to embed, at least one; equal ones share a vector.
        dimensions: of a vector.
        encoder: name of its store, by `name`.
        embed: embeds texts, at most `BATCH` at a time.
        root: folder of the stores.
    """
    import numpy as np

    keys = [key(text) for text in texts]
    folder, width = root / encoder[:32], 4 * dimensions
    with _opened(folder, width) as (known, _):
        places = _places(known)
    missing = {name: text for name, text in zip(keys, texts, strict=True) if name not in places}
    names = list(missing)
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        made = np.asarray(embed([missing[name] for name in batch]), dtype=np.float32)
        with _opened(folder, width) as (known, stored):
            first = os.fstat(known.fileno()).st_size // KEY
            _append(stored, made.tobytes())
            _append(known, b"".join(batch))
        places.update(zip(batch, range(first, first + len(batch)), strict=True))
    rows = np.fromiter((places[name] for name in keys), dtype=np.int64, count=len(keys))
    return Vectors(folder / "vectors", rows, dimensions, len(missing))


def key(text: str) -> bytes:
    """Name a text: its SHA-256, `KEY` bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@contextmanager
def _opened(folder: Path, width: int) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Hold a store's lock, cut off what a kill left without its other half, and yield its open keys and vectors.

    Args:
        folder: of the store.
        width: bytes of a vector.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "lock").open("w") as lock,
        (folder / "keys").open("ab+") as known,
        (folder / "vectors").open("ab+") as stored,
    ):
        locks.acquire(lock, wait=True)
        whole = min(os.fstat(known.fileno()).st_size // KEY, os.fstat(stored.fileno()).st_size // width)
        known.truncate(whole * KEY)
        stored.truncate(whole * width)
        yield known, stored


def _places(known: IO[bytes]) -> dict[bytes, int]:
    """Read which text lies where."""
    known.seek(0)
    keys = known.read()
    return {keys[at : at + KEY]: at // KEY for at in range(0, len(keys), KEY)}


def _append(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
