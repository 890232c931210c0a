"""Near-duplicates: the same ones as datasketch finds one row after the other, and the same in two files as in one."""

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.ingestion import minhash
from tasks.ingestion.settings import NearDuplicates
from tasks.ingestion.words import hashed

PLACES = 20
TEXT = "the quick brown fox jumps over the lazy dog while the old grey cat sleeps on the warm stone wall"


def found(
    folder: Path, files: list[list[list[str]]], near: NearDuplicates, skipped: list[int]
) -> list[tuple[int, int]]:
    paths = []
    for i, rows in enumerate(files):
        sketches = minhash.Sketches(near, minhash.bands_of(near.threshold, near.permutations), 0)
        sketches.add(rows, [""] * len(rows))
        sketches.write(folder / str(i))
        paths.append(folder / str(i))
    return minhash.repeats(paths, np.array(skipped, dtype=np.int64), PLACES, near)


def one_by_one(rows: list[list[str]], near: NearDuplicates) -> list[tuple[int, int]]:
    """What a loop over datasketch's own index finds."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=near.threshold, num_perm=near.permutations)
    kept: dict[int, Any] = {}
    pairs = []
    for i, words in enumerate(rows):
        runs = (
            {tuple(words[j : j + near.ngram]) for j in range(max(1, len(words) - near.ngram + 1))} if words else set()
        )
        sketch = MinHash(num_perm=near.permutations, seed=0)
        sketch.update_batch([" ".join(run).encode() for run in runs])
        alike = sorted(j for j in index.query(sketch) if sketch.jaccard(kept[j]) >= near.threshold)
        if alike:
            pairs.append((i, alike[0]))
        else:
            index.insert(i, sketch)
            kept[i] = sketch
    return pairs


def drawn(count: int) -> list[list[str]]:
    """Rows of which many are an earlier one but for some words, and some empty or short."""
    rng = random.Random(3)
    rows: list[list[str]] = [[], ["one"], ["one"], ["one", "two"]]
    while len(rows) < count:
        words = list(rng.choice(rows)) if rng.random() < 0.6 else [f"w{rng.randrange(900)}" for _ in range(40)]
        for _ in range(rng.randrange(8) if words else 0):
            words[rng.randrange(len(words))] = f"w{rng.randrange(900)}"
        rows.append(words)
    return rows


def test_sha1_finds_what_datasketch_finds_row_by_row(tmp_path: Path) -> None:
    near = NearDuplicates(threshold=0.7, permutations=64, ngram=2)
    rows = drawn(400)
    pairs = one_by_one(rows, near)
    assert len(pairs) > 50
    assert found(tmp_path, [rows], near, []) == pairs


@pytest.mark.parametrize("hashes", ["sha1", "rensa"])
def test_the_first_of_a_family_stays_whatever_the_files(tmp_path: Path, hashes: Any) -> None:
    near = NearDuplicates(threshold=0.8, permutations=128, ngram=2, hashes=hashes)
    other = "something else entirely about ships and sealing wax and cabbages and kings"
    rows = [text.split() for text in (TEXT, other, TEXT + " today", TEXT)]
    assert found(tmp_path, [rows], near, []) == [(2, 0), (3, 0)]
    assert found(tmp_path, [rows[:2], rows[2:]], near, []) == [(1 << PLACES, 0), (1 << PLACES | 1, 0)]
    assert found(tmp_path, [rows], near, [0]) == [(3, 2)], "a row that is out is no reason for another"


def test_rensa_agrees_with_the_true_share_of_common_ngrams() -> None:
    near = NearDuplicates(threshold=0.8, permutations=512, ngram=2, hashes="rensa")
    rows = [row for row in drawn(120) if len(row) > 2]
    sketches = minhash.by_rensa(rows, near, 0, hashed([text for row in rows for text in row]))
    grams = [set(pairwise(row)) for row in rows]
    for i in range(0, len(rows), 3):
        for j in range(i):
            true = len(grams[i] & grams[j]) / len(grams[i] | grams[j])
            assert (sketches[i] == sketches[j]).mean() == pytest.approx(true, abs=0.12)


def test_the_same_words_in_another_media_family_are_no_repeat(tmp_path: Path) -> None:
    near = NearDuplicates(threshold=0.8, permutations=64, ngram=2)
    sketches = minhash.Sketches(near, minhash.bands_of(0.8, 64), 0)
    sketches.add([TEXT.split()] * 3, ["a", "b", "a"])
    sketches.write(tmp_path / "0")
    assert minhash.repeats([tmp_path / "0"], np.zeros(0, dtype=np.int64), PLACES, near) == [(2, 0)]
