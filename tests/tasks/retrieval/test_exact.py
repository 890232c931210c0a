"""The exact index: filled in place to the bytes of added vectors, and searched in blocks to the last bit."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from tasks.retrieval import exact
from tasks.retrieval.dense import FILE, build
from tasks.retrieval.dense_settings import Flat

DIMENSIONS = 12


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that a few hundred vectors fill; sums that do not depend on the number of queries, as `Dense` sets it."""
    monkeypatch.setattr(exact, "ROWS", 64)
    monkeypatch.setattr(exact, "BLOCK", 64)
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", np.iinfo(np.int32).max)


def drawn(count: int, seed: int) -> Any:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def indexed(vectors: Any) -> Any:
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(vectors)
    return index


@pytest.mark.parametrize("count", [1, 64, 300])
def test_the_file_is_that_of_vectors_that_were_added(count: int, tmp_path: Path) -> None:
    vectors = drawn(count, 0)
    faiss.write_index(indexed(vectors), str(tmp_path / "added"))
    settings = Flat(kind="flat", shard_rows=100)
    build(lambda start, end: vectors[start:end], count, DIMENSIONS, settings, tmp_path, seed=0)
    assert (tmp_path / FILE).read_bytes() == (tmp_path / "added").read_bytes()


@pytest.mark.parametrize(("count", "k"), [(300, 10), (300, 100), (300, 300), (65, 65), (64, 7)])
def test_blocks_find_what_the_whole_index_finds(count: int, k: int) -> None:
    index, queries = indexed(drawn(count, 1)), drawn(20, 2)
    scores, rows = exact.search(index, queries, k)
    expected_scores, expected_rows = index.search(queries, k)
    assert np.array_equal(scores, expected_scores)
    assert np.array_equal(rows, expected_rows)


def test_equal_scores_at_the_last_place_are_chosen_as_the_whole_index_chooses_them() -> None:
    vectors = np.tile(drawn(40, 3), (8, 1))
    index, queries = indexed(vectors), drawn(20, 4)
    for k in range(1, 20):
        _, rows = exact.search(index, queries, k)
        _, expected = index.search(queries, k)
        assert [set(row) for row in rows.tolist()] == [set(row) for row in expected.tolist()]


def test_few_queries_are_found_as_many() -> None:
    index, queries = indexed(drawn(300, 5)), drawn(20, 6)
    together = exact.search(index, queries, 5)
    for at in range(len(queries)):
        scores, rows = exact.search(index, queries[at : at + 1], 5)
        assert np.array_equal(scores[0], together[0][at])
        assert np.array_equal(rows[0], together[1][at])
