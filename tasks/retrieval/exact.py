"""An exact index of FAISS, filled in place and searched block by block: the same bytes and hits, sooner.

FAISS compares one query after another with all vectors, which come from memory each time. Where many are asked at once,
a block of vectors that fits into the processor's cache is compared with all of them before the next one.
"""

from typing import TYPE_CHECKING, Any

from tasks.retrieval.dense_settings import Take

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

ROWS, BLOCK = 2_048, 8_192
"""Most vectors that are read at a time, and vectors of a block."""
TOGETHER = 8
"""Queries from which on blocks are worth it."""


def fill(index: Any, take: Take, count: int, rows: int) -> None:
    """Put vectors into an empty `IndexFlatIP` without a copy that grows with it.

    Args:
        index: empty.
        take: reads a range of rows.
        count: number of rows.
        rows: that are read at a time, at most.
    """
    import faiss

    index.codes.resize(index.sa_code_size() * count)
    index.ntotal = count
    vectors = faiss.rev_swig_ptr(index.get_xb(), count * index.d).reshape(count, index.d)
    step = min(rows, ROWS)
    for start in range(0, count, step):
        end = min(start + step, count)
        vectors[start:end] = take(start, end)


def search(index: Any, queries: "NDArray[float32]", k: int) -> "tuple[NDArray[float32], NDArray[int64]]":
    """Find the nearest rows of each query as `index.search` does, to the last bit.

    Where the last place falls between equal scores, FAISS' own choice depends on the rows before, so it is asked.

    Args:
        index: an `IndexFlat` by inner product.
        queries: of shape [queries, dimensions].
        k: rows for each of them, at most those of the index.
    """
    import faiss
    import numpy as np

    if len(queries) < TOGETHER or index.ntotal <= BLOCK:
        scores, rows = index.search(queries, k)
        return scores, rows
    stored = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    parts = []
    for start in range(0, index.ntotal, BLOCK):
        block = stored[start : start + BLOCK]
        scores, rows = faiss.knn(queries, block, min(k + 1, len(block)), faiss.METRIC_INNER_PRODUCT)
        parts.append((scores, rows + start))
    scores, rows = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, : k + 1]
    scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
    tied = np.flatnonzero(scores[:, k - 1] == scores[:, k]) if k < index.ntotal else np.array([], np.int64)
    scores, rows = scores[:, :k].copy(), rows[:, :k].copy()
    if len(tied):
        scores[tied], rows[tied] = index.search(queries[tied], k)
    return scores, rows
