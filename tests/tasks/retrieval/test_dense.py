"""The dense index: each kind against exact search, shards against one piece, files against damage."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.retrieval import dense
from tasks.retrieval.dense import Dense, Flat, Ivf, IvfPq, Sq8
from tasks.stage.errors import ArtifactError, ConfigError

COUNT, WIDTH = 900, 32
KINDS: dict[str, Any] = {
    "flat": Flat(kind="flat", shard_rows=2_000),
    "sq8": Sq8(kind="sq8", shard_rows=2_000, train_rows=500),
    "ivf": Ivf(kind="ivf", shard_rows=2_000, train_rows=600, iterations=8, nlist=12, nprobe=4),
    "ivfpq": IvfPq(kind="ivfpq", shard_rows=2_000, train_rows=600, iterations=8, nlist=12, nprobe=12, m=16, nbits=6),
}
RECALL = {"flat": 1.0, "sq8": 0.95, "ivf": 0.85, "ivfpq": 0.6}
"""Least share of the ten nearest vectors that each kind finds."""


@pytest.fixture(scope="module")
def vectors() -> Any:
    """Vectors in clusters, as those of texts are."""
    rng = np.random.default_rng(0)
    made = rng.normal(size=(30, WIDTH))[rng.integers(0, 30, COUNT)] + 0.4 * rng.normal(size=(COUNT, WIDTH))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def built(vectors: Any, settings: Any, folder: Path) -> Path:
    folder.mkdir()
    dense.build(lambda start, end: vectors[start:end], len(vectors), WIDTH, settings, folder, seed=5)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_finds_what_exact_search_finds(kind: str, vectors: Any, tmp_path: Path) -> None:
    truth = np.argsort(-(vectors[:100] @ vectors.T), axis=1)[:, :10]
    index = Dense.open(built(vectors, KINDS[kind], tmp_path / "index"))
    scores, rows = index.search(vectors[:100], 10)
    assert (index.size, index.dimensions) == (COUNT, WIDTH)
    assert (np.diff(scores, axis=1) <= 0).all()
    found = np.mean([len({*a} & {*b}) for a, b in zip(rows.tolist(), truth.tolist(), strict=True)]) / 10
    assert found >= RECALL[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_three_shards_give_what_one_gives(kind: str, vectors: Any, tmp_path: Path) -> None:
    one = Dense.open(built(vectors, KINDS[kind], tmp_path / "one")).search(vectors[:50], 10)
    sharded = KINDS[kind].model_copy(update={"shard_rows": 350})
    folder = built(vectors, sharded, tmp_path / "three")
    three = Dense.open(folder).search(vectors[:50], 10)
    assert (one[1] == three[1]).all()
    assert (one[0] == three[0]).all()
    assert {path.name for path in folder.iterdir()} <= {dense.FILE, dense.LISTS}, "no shard is left behind"


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_give_equal_bytes(kind: str, vectors: Any, tmp_path: Path) -> None:
    settings = KINDS[kind].model_copy(update={"shard_rows": 350})
    one, two = (built(vectors, settings, tmp_path / name) for name in ("one", "another"))
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []


def test_an_inverted_file_may_be_moved_and_is_only_read(vectors: Any, tmp_path: Path) -> None:
    folder = built(vectors, KINDS["ivf"], tmp_path / "here")
    before = Dense.open(folder).search(vectors[:5], 3)
    shutil.move(folder, tmp_path / "there")
    for path in (tmp_path / "there").iterdir():
        path.chmod(0o444)
    after = Dense.open(tmp_path / "there").search(vectors[:5], 3)
    assert (before[1] == after[1]).all()
    assert os.fsencode(tmp_path) not in (tmp_path / "there" / dense.FILE).read_bytes()


def test_a_query_alone_is_scored_as_among_others(vectors: Any) -> None:
    index = Dense.of(vectors)
    together = index.search(vectors[:64], 7)
    for at in range(64):
        alone = index.search(vectors[at : at + 1], 7)
        assert (alone[0][0] == together[0][at]).all()
        assert (alone[1][0] == together[1][at]).all()


def test_copies_are_ordered_by_row_and_missing_places_are_marked(vectors: Any) -> None:
    copies = np.repeat(vectors[:1], 4, axis=0)
    scores, rows = Dense.of(copies).search(vectors[:1], 6)
    assert rows.tolist() == [[0, 1, 2, 3, -1, -1]]
    assert scores[0].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"nlist": 601}, "nlist is 601, and there are 600"), ({"m": 5}, "does not divide 32"), ({"nbits": 10}, "is 1024")],
)
def test_what_cannot_be_learnt_is_refused(changed: Any, message: str, vectors: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        built(vectors, KINDS["ivfpq"].model_copy(update=changed), tmp_path / "index")


def test_a_broken_index_is_named(vectors: Any, tmp_path: Path) -> None:
    folder = built(vectors, KINDS["flat"], tmp_path / "index")
    with pytest.raises(ArtifactError, match="no such file"):
        Dense.open(tmp_path)
    whole = (folder / dense.FILE).read_bytes()
    (folder / dense.FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"dense\.faiss: no dense index"):
        Dense.open(folder)
