"""Dense search in LanceDB: a table on the disk, searched exactly, so an index may be larger than memory. No server.

The artifact holds the vectors (`dense.npy`) and their SHA-256 (`dense.json`), equal bytes for equal vectors. LanceDB's
own files have random names and the time in them, so they are no part of an artifact: the table is made from the vectors
where an index is first opened, below `.polm/retrieval/lancedb/` by that SHA-256. It is safe to delete. LanceDB's
approximate indexes are left out: their k-means takes no seed, so two machines would find different passages.
"""

import hashlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tasks.retrieval.dense_settings import LanceDb, Take
from tasks.stage import locks
from tasks.stage.artifact import STATE, read_json, write_json
from tasks.stage.config import Strict
from tasks.stage.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

VECTORS, DESCRIBED = "dense.npy", "dense.json"
"""The vectors, float32 of shape [rows, dimensions], and what they are."""
ROOT = STATE / "retrieval" / "lancedb"
TABLE = "vectors"


class Described(Strict):
    """What `dense.json` holds."""

    sha256: str
    """Of `dense.npy`."""
    rows: int
    """Number of vectors."""
    dimensions: int
    """Of a vector."""
    shard_rows: int
    """Vectors that are added to the table at a time."""


def require() -> None:
    """Raise ConfigError where the package is missing."""
    if importlib.util.find_spec("lancedb") is None:
        raise ConfigError(
            "dense.kind is lancedb, and the package lancedb is missing; `pip install 'polm[lancedb]'`, or set "
            "`kind: flat`, which finds the same"
        )


def build(take: Take, count: int, dimensions: int, settings: LanceDb, folder: Path) -> None:
    """Write `count` vectors into a folder, some rows at a time; the table is made when they are opened.

    Raises:
        ConfigError: LanceDB is not installed, so that nobody finds out only when the index is opened.
    """
    import numpy as np

    require()
    vectors = np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype=np.float32, shape=(count, dimensions))
    for start in range(0, count, settings.shard_rows):
        end = min(start + settings.shard_rows, count)
        vectors[start:end] = take(start, end)
    vectors.flush()
    with (folder / VECTORS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    described = Described(sha256=digest, rows=count, dimensions=dimensions, shard_rows=settings.shard_rows)
    write_json(folder / DESCRIBED, described.model_dump())


class LanceTable:
    """A table of vectors, with the few names of a FAISS index that `tasks.retrieval.dense.Dense` uses."""

    def __init__(self, table: Any, dimensions: int) -> None:
        """Args: table: of LanceDB, with the columns `row` and `vector`; dimensions: of a vector."""
        self._table = table
        self.ntotal = int(table.count_rows())
        """Number of vectors."""
        self.d = dimensions
        """Dimensions of a vector."""

    @classmethod
    def open(cls, folder: Path, root: Path = ROOT) -> "LanceTable":
        """Open the table of the vectors in a folder, which is made where it is missing.

        Args:
            folder: where `build` wrote.
            root: folder of the tables on this machine.

        Raises:
            ArtifactError: the vectors are missing, or are not those that `dense.json` describes.
            ConfigError: LanceDB is not installed.
        """
        require()
        import lancedb

        try:
            described = Described.model_validate(read_json(folder / DESCRIBED))
        except ValidationError as e:
            raise ArtifactError(f"{folder / DESCRIBED}: of another version ({e}); run `polm run`") from None
        place = root / described.sha256
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{described.sha256}.lock").open("w") as file:
            locks.acquire(file, wait=True)
            if not place.is_dir():
                _make(folder, described, place)
        try:
            made = cls(lancedb.connect(place).open_table(TABLE), described.dimensions)
        except (OSError, RuntimeError, ValueError) as e:
            raise ArtifactError(f"{place}: no table of LanceDB ({e}); delete it: it is made anew") from None
        if made.ntotal != described.rows:
            raise ArtifactError(f"{place}: has {made.ntotal} of {described.rows} rows; delete it: it is made anew")
        return made

    def search(self, vectors: "NDArray[float32]", k: int) -> "tuple[NDArray[float32], NDArray[int64]]":
        """Find the k nearest rows of each query, exactly.

        Of rows that are as near as the k-th, to the sixth digit, the lowest ones are taken: LanceDB scans fragments at
        once and promises no order, so more are asked for until none is left out that could stand in their place.

        Args:
            vectors: of the queries, float32 of shape [queries, dimensions], of length 1.
            k: rows for each of them, at most `ntotal`.

        Returns:
            Cosines and rows, both of shape [queries, k].
        """
        import numpy as np

        scores = np.zeros((len(vectors), k), dtype=np.float32)
        rows = np.zeros((len(vectors), k), dtype=np.int64)
        for at, vector in enumerate(vectors):
            asked = min(k + 8, self.ntotal)
            found, where = self._nearest(vector, asked)
            while asked < self.ntotal and found.min() >= np.partition(found, -k)[-k]:
                asked = min(4 * asked, self.ntotal)
                found, where = self._nearest(vector, asked)
            order = np.lexsort((where, -found))[:k]
            scores[at], rows[at] = found[order], where[order]
        return scores, rows

    def _nearest(self, vector: Any, count: int) -> "tuple[NDArray[float32], NDArray[int64]]":
        """Ask LanceDB, whose distance of `dot` is 1 less the inner product."""
        query = self._table.search(vector).distance_type("dot").limit(count).select(["row", "_distance"])
        found = query.to_arrow()
        return (1 - found["_distance"].to_numpy()).round(6), found["row"].to_numpy()


def _make(folder: Path, described: Described, place: Path) -> None:
    """Make the table of a folder's vectors at a place that becomes it when it is whole. Raises ArtifactError."""
    import lancedb
    import numpy as np
    import pyarrow

    path = folder / VECTORS
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise ArtifactError(f"{path}: cannot be read ({e.strerror}); run `polm run`") from None
    if digest != described.sha256:
        raise ArtifactError(f"{path}: not the vectors that {DESCRIBED} describes; delete {folder} and run `polm run`")
    vectors = np.load(path, mmap_mode="r")
    width = described.dimensions
    schema = pyarrow.schema([("row", pyarrow.int64()), ("vector", pyarrow.list_(pyarrow.float32(), width))])

    def batches() -> Iterator[Any]:
        for start in range(0, described.rows, described.shard_rows):
            part = np.ascontiguousarray(vectors[start : start + described.shard_rows])
            columns = [
                pyarrow.array(np.arange(start, start + len(part))),
                pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part.ravel()), width),
            ]
            yield pyarrow.RecordBatch.from_arrays(columns, schema=schema)

    temporary = place.with_name(f"{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # what a kill left; the lock is ours
    lancedb.connect(temporary).create_table(TABLE, data=batches(), schema=schema)
    temporary.replace(place)
