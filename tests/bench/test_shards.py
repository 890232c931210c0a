"""Embedding by shards: the documents of the bench, and that it does not measure two ways to other vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench import shards
from tasks.retrieval.shards import KEYS, VECTORS, holds


def shard(folder: Path, texts: Sequence[int], change: float = 0.0) -> Path:
    """Write the files of a shard whose texts are numbers, in the place where its stage leaves them."""
    place = folder / folder.name
    place.mkdir(parents=True)
    np.save(place / KEYS, np.array([[text] * 32 for text in texts], dtype=np.uint8))
    np.save(place / VECTORS, np.array([[text + change] * 4 for text in texts], dtype=np.float32))
    return folder


def test_both_halves_have_documents() -> None:
    chunks = shards.chunks_of([str(at) for at in range(1_000)])
    assert len({chunk.id for chunk in chunks}) == 1_000
    documents = [chunk.document for chunk in chunks]
    assert documents == sorted(documents)
    assert 400 < sum(holds(1, 2, document) for document in documents) < 600


def test_halves_with_other_vectors_are_not_measured(tmp_path: Path) -> None:
    whole = [shard(tmp_path / "whole", [1, 2, 3])]
    first, second = shard(tmp_path / "first", [1, 3]), shard(tmp_path / "second", [2])
    shards.compare(whole, [first, second])
    for halves in ([first], [first, shard(tmp_path / "other", [2], change=0.5)]):
        with pytest.raises(AssertionError, match="two shards have other vectors than one"):
            shards.compare(whole, halves)
