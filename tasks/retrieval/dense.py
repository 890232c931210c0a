"""The dense index: FAISS over vectors of length 1 by inner product, exact or approximate, also larger than memory.

    build(take, count, settings, folder)         # take(start, end) returns rows of vectors
    scores, rows = Dense.open(folder).search(vectors, k=3)

`flat` compares a query with every vector, `sq8` with every vector in a byte a dimension. `ivf` (an inverted file, Sivic
and Zisserman, 2003) compares it with the vectors of the `nprobe` nearest of `nlist` k-means cells, `ivfpq` with their
product quantisation (Jégou et al., 2011). Cells are filled shard by shard, a range of rows at a time, and merged into
`dense.ivfdata`, which is mapped into memory and not read: so they may be larger than it. `flat` and `sq8` are held in
memory while they are built. `lancedb` is no index of FAISS: `tasks/retrieval/lance.py`.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.retrieval import exact, lance
from tasks.retrieval.dense_settings import Cells, Flat, Ivf, IvfPq, LanceDb, Settings, Sq8, Take
from tasks.stage.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

FILE, LISTS = "dense.faiss", "dense.ivfdata"
"""The index, and its inverted lists where it has some."""


def build(take: Take, count: int, dimensions: int, settings: Settings, folder: Path, seed: int) -> None:
    """Write the index of `count` vectors into a folder: row i is the i-th vector; equal bytes for equal vectors.

    Args:
        take: reads a range of rows.
        count: number of rows, at least one.
        dimensions: of a vector.
        settings: how they are stored.
        folder: where `dense.faiss` goes, and `dense.ivfdata` of an inverted file; of LanceDB, the vectors.
        seed: of the vectors to learn cells and codes from, and of k-means.

    Raises:
        ConfigError: more cells or codes than vectors to learn them from, `m` does not divide the dimensions, or LanceDB
            is not installed.
    """
    import faiss

    if isinstance(settings, LanceDb):
        lance.build(take, count, dimensions, settings, folder)
        return
    index = _empty(settings, dimensions, count, seed)
    if isinstance(settings, Cells):
        index.train(_sample(take, count, settings.train_rows, seed))
        _merge_shards(index, take, count, settings.shard_rows, folder)
        index.nprobe = settings.nprobe
    elif isinstance(settings, Flat):
        exact.fill(index, take, count, settings.shard_rows)
    else:
        index.train(_sample(take, count, settings.train_rows, seed))
        for start in range(0, count, settings.shard_rows):
            index.add(take(start, min(start + settings.shard_rows, count)))
    faiss.write_index(index, str(folder / FILE))


def _empty(settings: Settings, dimensions: int, count: int, seed: int) -> Any:
    """Make an index without vectors. Raises ConfigError as `build`."""
    import faiss

    by = faiss.METRIC_INNER_PRODUCT
    if isinstance(settings, Sq8):
        return faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_8bit, by)
    if isinstance(settings, Flat):
        return faiss.IndexFlatIP(dimensions)
    assert isinstance(settings, Cells)
    learnt_from = min(count, settings.train_rows)
    _require("nlist", settings.nlist, learnt_from)
    cells = faiss.IndexFlatIP(dimensions)
    if isinstance(settings, IvfPq):
        _require("2 ** nbits", 2**settings.nbits, learnt_from)
        if dimensions % settings.m:
            raise ConfigError(f"dense.m is {settings.m}, which does not divide {dimensions} dimensions; change it")
        index: Any = faiss.IndexIVFPQ(cells, dimensions, settings.nlist, settings.m, settings.nbits, by)
        index.pq.cp.seed, index.pq.cp.min_points_per_centroid = seed, 1
    elif isinstance(settings, Ivf) and settings.codes != "float32":
        code = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}[settings.codes]
        index = faiss.IndexIVFScalarQuantizer(cells, dimensions, settings.nlist, code, by)
    else:
        index = faiss.IndexIVFFlat(cells, dimensions, settings.nlist, by)
    index.cp.seed, index.cp.niter, index.cp.spherical = seed, settings.iterations, True
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = 1 + settings.train_rows // settings.nlist
    return index


def _require(name: str, wanted: int, vectors: int) -> None:
    """Refuse to learn more than there is to learn from. Raises ConfigError."""
    if wanted > vectors:
        raise ConfigError(
            f"dense: {name} is {wanted}, and there are {vectors} vectors to learn them from; lower it, raise "
            f"'train_rows', or take `kind: flat`, which is as fast for so few"
        )


def _sample(take: Take, count: int, wanted: int, seed: int) -> "NDArray[float32]":
    """Draw vectors to learn from, in the order of their rows, a range of rows at a time."""
    import numpy as np

    if wanted >= count:
        return take(0, count)
    rows = np.sort(np.random.default_rng(seed).choice(count, size=wanted, replace=False))
    parts = []
    step = 16_384
    for start in range(0, count, step):
        inside = rows[(rows >= start) & (rows < start + step)] - start
        if len(inside):
            parts.append(take(start, min(start + step, count))[inside])
    return np.concatenate(parts)


def _merge_shards(index: Any, take: Take, count: int, shard_rows: int, folder: Path) -> None:
    """Fill an inverted file by ranges of rows, each of which is written by itself, and merge them on the disk."""
    import faiss
    import numpy as np
    from faiss.contrib.ondisk import merge_ondisk

    with tempfile.TemporaryDirectory(prefix="shards-", dir=folder) as place:
        paths: list[str] = []
        for start in range(0, count, shard_rows):
            end = min(start + shard_rows, count)
            shard = faiss.clone_index(index)
            shard.add_with_ids(take(start, end), np.arange(start, end))
            paths.append(str(Path(place) / f"{len(paths)}.faiss"))
            faiss.write_index(shard, paths[-1])
            del shard
        merge_ondisk(index, paths, str(folder / LISTS))
    # Where it lies is no part of what it is: the reader looks for it beside the index.
    lists: Any = faiss.downcast_InvertedLists(index.invlists)
    lists.filename = LISTS


class Dense:
    """An index that is read or made."""

    def __init__(self, index: Any) -> None:
        """Args: index: of FAISS, by inner product, or a table with its names."""
        self._index = index

    @property
    def size(self) -> int:
        """Number of vectors."""
        return int(self._index.ntotal)

    @property
    def dimensions(self) -> int:
        """Dimensions of a vector."""
        return int(self._index.d)

    @classmethod
    def open(cls, folder: Path, nprobe: int | None = None) -> "Dense":
        """Map an index that `build` wrote into memory, or open the table of its vectors.

        Args:
            folder: where it lies.
            nprobe: cells of an inverted file that are searched; None searches as many as it was built for.

        Raises:
            ArtifactError: there is none, or a broken one.
            ConfigError: it wants LanceDB, which is not installed.
        """
        import faiss

        if (folder / lance.DESCRIBED).is_file():
            return cls(lance.LanceTable.open(folder))
        path = folder / FILE
        mapped = faiss.IO_FLAG_ONDISK_SAME_DIR if (folder / LISTS).is_file() else faiss.IO_FLAG_MMAP_IFC
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; run `polm run`, or name a folder that holds an index")
        try:
            index: Any = faiss.read_index(os.fspath(path), mapped | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as e:
            raise ArtifactError(f"{path}: no dense index ({e}); delete {folder} and run `polm run`") from None
        if nprobe is not None:
            index.nprobe = nprobe
        if (folder / LISTS).is_file():
            lists: Any = faiss.downcast_InvertedLists(index.invlists)
            lists.prefetch_nthread = 0  # 32 threads a search, which cost more than what they read
        return cls(index)

    @classmethod
    def of(cls, vectors: "NDArray[float32]") -> "Dense":
        """Make an exact index in memory of vectors, float32 of shape [rows, dimensions]."""
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return cls(index)

    def search(self, vectors: "NDArray[float32]", k: int) -> "tuple[NDArray[float32], NDArray[int64]]":
        """Find the nearest rows of each query, whether it is asked alone or among others.

        Args:
            vectors: of the queries, float32 of shape [queries, dimensions], of length 1.
            k: most rows for each of them, at least 1.

        Returns:
            `scores`, cosines of shape [queries, k], descending, and `rows`, of the same shape. Of equal scores, to the
            sixth digit, the lower row comes first; where fewer than k were found, the row is -1 and the score 0.
        """
        import faiss
        import numpy as np

        faiss.cvar.distance_compute_blas_threshold = np.iinfo(np.int32).max  # its sums depend on the number of queries
        asked = np.ascontiguousarray(vectors, dtype=np.float32)
        by = exact.search if isinstance(self._index, faiss.IndexFlat) else type(self._index).search
        found, rows = by(self._index, asked, min(k, self.size))
        found = np.where(rows < 0, -np.inf, found.round(6))
        order = np.lexsort((rows, -found), axis=1)
        found, rows = np.take_along_axis(found, order, 1), np.take_along_axis(rows, order, 1)
        missing = ((0, 0), (0, k - rows.shape[1]))
        scores = np.pad(np.where(rows < 0, 0, found).astype(np.float32), missing)
        return scores, np.pad(rows, missing, constant_values=-1)
