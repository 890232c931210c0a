"""Vectors that were computed before, on this machine: a text is embedded once by one encoder.

The store is beside the artifacts and no part of one: `.polm/retrieval/embeddings/<digest of the encoder>/`, with
`keys`, SHA-256 of the texts, 32 bytes each, and `vectors`, float32 rows in the same order. Both grow at their ends, the
vectors first, so that a kill leaves at most vectors without a key, which the next run cuts off. One process writes at a
time. It is safe to delete, and an index made from it has the same bytes as one made without it.
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

    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    with _locked(root / encoder[:32]) as folder, (folder / "keys").open("ab+") as known:
        with (folder / "vectors").open("ab+") as stored:
            places = _places(known, stored, 4 * dimensions)
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in places}
            names = list(missing)
            for start in range(0, len(names), BATCH):
                batch = names[start : start + BATCH]
                made = np.asarray(embed([missing[name] for name in batch]), dtype=np.float32)
                _append(stored, made.tobytes())
                _append(known, b"".join(batch))
                places.update(zip(batch, range(len(places), len(places) + len(batch)), strict=True))
        rows = np.fromiter((places[key] for key in keys), dtype=np.int64, count=len(keys))
        return Vectors(folder / "vectors", rows, dimensions, len(missing))


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Make a store's folder, and hold its lock."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        locks.acquire(file, wait=True)
        yield folder


def _places(known: IO[bytes], stored: IO[bytes], width: int) -> dict[bytes, int]:
    """Read which text lies where, after cutting off what a kill left without its other half; `width` in bytes."""
    whole = min(os.fstat(known.fileno()).st_size // KEY, os.fstat(stored.fileno()).st_size // width)
    known.truncate(whole * KEY)
    stored.truncate(whole * width)
    known.seek(0)
    keys = known.read()
    return {keys[at * KEY : (at + 1) * KEY]: at for at in range(whole)}


def _append(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
