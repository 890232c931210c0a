"""Near-duplicates by MinHash (Broder 1997), with sketches and bands on the disk.

Two families of hashes: `sha1`, by datasketch, and `rensa`, in Rust and some twenty times faster. Each gives the same
result on every machine; they differ in which of two rows at the very threshold counts as a repeat. Bands are chosen as
datasketch chooses them for a threshold, and every pair that shares one is compared by all of its hashes.

Rows are taken in order, and a row is dropped where one that stays is like it. Only rows whose band is another row's
too can be: the others are set aside first, by sorting one band of all rows at a time, 16 bytes a row.
"""

import pickle
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from tasks.ingestion.cleaning import tokens
from tasks.ingestion.settings import NearDuplicates
from tasks.ingestion.words import hashed, mixed, ngrams

SKETCHES, BANDS = ".sketches.npy", ".bands.npy"
"""What is added to the name of a file of facts: hashes [rows, permutations], and hashes of bands [bands, rows]."""


@lru_cache(maxsize=2)
def saved(path: Path) -> Any:
    """Read what was pickled at a path, once in a process; a later file of that name would not be seen."""
    with path.open("rb") as f:
        return pickle.load(f)


@lru_cache
def bands_of(threshold: float, permutations: int) -> tuple[int, int]:
    """Choose how many bands there are and how many hashes each has, as datasketch does."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=permutations)
    return index.b, index.r


def by_sha1(rows: Sequence[Sequence[str]], near: NearDuplicates, seed: int) -> Any:
    """Compute MinHashes by datasketch, an array of 32-bit numbers [rows, permutations], of the texts of each row."""
    import numpy as np
    from datasketch import MinHash

    n = near.ngram
    words = ([word for text in row for word in tokens(text)] for row in rows)
    runs = (zip(*(row[i:] for i in range(n)), strict=False) if len(row) > n else [row] if row else [] for row in words)
    grams = ([" ".join(run).encode() for run in set(map(tuple, of_row))] for of_row in runs)
    made = [m.hashvalues for m in MinHash.generator(grams, num_perm=near.permutations, seed=seed)]
    return np.array(made, dtype=np.uint32).reshape(len(rows), near.permutations)


def by_rensa(rows: Sequence[Sequence[str]], near: NearDuplicates, seed: int, words: tuple[Any, Any]) -> Any:
    """Compute MinHashes by rensa, an array of 32-bit numbers [rows, permutations], of the texts of each row.

    Args:
        rows: the texts of each.
        near: settings.
        seed: of the hash functions.
        words: what `hashed` makes of the texts of all rows, one after the other.
    """
    import numpy as np
    from rensa import RMinHash

    n = near.ngram
    flat, of_texts = words
    begins = of_texts[[0, *accumulate(map(len, rows))]].tolist()
    runs = ngrams(flat, n)
    grams = [
        runs[begin : end - n + 1] if end - begin >= n else ngrams(flat[begin:end], end - begin)[: end - begin]
        for begin, end in pairwise(begins)
    ]
    ends = np.concatenate([[0], np.cumsum([len(of_row) for of_row in grams])]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(grams), ends, near.permutations, seed)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(rows), near.permutations)


class Sketches:
    """The MinHashes of the rows of one file of facts, as they come."""

    def __init__(self, near: NearDuplicates, bands: tuple[int, int], seed: int) -> None:
        """Begin with none. Args: bands: as `bands_of` gives them; seed: of the hash functions."""
        self._near = near
        self._bands = bands
        self._seed = seed
        self._families: list[str] = []
        self._made: list[Any] = []

    def add(self, rows: Sequence[Sequence[str]], families: Sequence[str], words: tuple[Any, Any] | None = None) -> None:
        """Add rows.

        Args:
            rows: the texts of each.
            families: of each the media that rows have to share to be alike.
            words: what `hashed` makes of the texts of all rows, where that is known.
        """
        if self._near.hashes == "rensa":
            words = hashed([text for row in rows for text in row]) if words is None else words
            self._made.append(by_rensa(rows, self._near, self._seed, words))
        else:
            self._made.append(by_sha1(rows, self._near, self._seed))
        self._families += families

    def write(self, path: Path) -> None:
        """Write the sketches, and the hashes of their bands, beside a file of facts."""
        import numpy as np

        sketches = np.concatenate(self._made or [np.zeros((0, self._near.permutations), dtype=np.uint32)])
        bands, rows = self._bands
        kept = sketches[:, : bands * rows].reshape(len(sketches), bands, rows).astype(np.uint64)
        hashed = np.zeros((len(sketches), bands), dtype=np.uint64)
        for i in range(rows):
            hashed = mixed(hashed ^ kept[:, :, i])
        families = np.array([_number(family) for family in self._families], dtype=np.uint64)
        hashed = mixed(hashed ^ families[:, None])
        np.save(path.with_name(path.name + SKETCHES), sketches)
        np.save(path.with_name(path.name + BANDS), np.ascontiguousarray(hashed.T))


def _number(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") if text else 0


def repeats(files: Sequence[Path], skipped: Any, places: int, near: NearDuplicates) -> list[tuple[int, int]]:
    """Find pairs (near-duplicate, the earlier row that it repeats), numbers of rows. The first of a family stays.

    Args:
        files: files of facts, with the sketches beside them, in order.
        skipped: array of numbers of rows that are out already.
        places: bits of a row's number that count the rows of its file.
        near: settings.
    """
    import numpy as np

    names = [path.with_name(path.name + BANDS) for path in files]
    counts = [np.load(name, mmap_mode="r").shape[1] for name in names]
    numbers = np.concatenate([(i << places) + np.arange(n, dtype=np.int64) for i, n in enumerate(counts)])
    stays = ~np.isin(numbers, skipped)
    numbers = numbers[stays]
    rows, buckets, before = [], [], 0
    for band in range(bands_of(near.threshold, near.permutations)[0]):
        values = np.concatenate([np.load(name, mmap_mode="r")[band] for name in names])[stays]
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        group = np.concatenate([[0], np.cumsum(ordered[1:] != ordered[:-1])]) if len(ordered) else order
        several = np.bincount(group)[group] > 1
        rows.append(numbers[order[several]])
        found = np.unique(group[several], return_inverse=True)
        buckets.append((before + found[1]).astype(np.int32 if before < 2**30 else np.int64))
        before += len(found[0])
    if not sum(map(len, rows)):
        return []
    order = np.argsort(of_rows := np.concatenate(rows), kind="stable")
    shared, begins = np.unique(of_rows[order], return_index=True)
    sketches = _gather(files, shared, places, near.permutations)
    of_rows = np.concatenate(buckets)[order]
    return _greedy(shared, np.append(begins, len(order)), of_rows, before, sketches, near.threshold)


def _gather(files: Sequence[Path], numbers: Any, places: int, permutations: int) -> Any:
    """Copy the sketches of some rows, in order, into one file that is mapped into memory."""
    import numpy as np

    path = files[0].with_name("candidates.npy")
    gathered = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint32, shape=(len(numbers), permutations))
    of_file = numbers >> places
    for i in np.unique(of_file).tolist():
        begin, end = np.searchsorted(of_file, [i, i + 1])
        all_of_file = np.load(files[i].with_name(files[i].name + SKETCHES), mmap_mode="r")
        gathered[begin:end] = all_of_file[numbers[begin:end] & ((1 << places) - 1)]
    return gathered


def _greedy(
    numbers: Any, begins: Any, buckets: Any, count: int, sketches: Any, threshold: float
) -> list[tuple[int, int]]:
    """Take rows in order; one that is like a row that stays goes, the others go into their buckets.

    Args:
        numbers: of the rows that share a bucket with another one, sorted.
        begins: where the buckets of each begin, and behind the last.
        buckets: of the first row, of the second, …
        count: how many buckets there are.
        sketches: of the rows [rows, permutations].
        threshold: share of equal hashes, 0 to 1, from which two rows are alike.
    """
    import numpy as np

    pairs = []
    # The rows in a bucket are a chain: of each bucket the place in `buckets` that its last row came from, and of each
    # place the one before it. Lists would take twenty times the memory.
    last, earlier = np.full(count, -1, dtype=np.int64), np.full(len(buckets), -1, dtype=np.int64)
    rows = np.repeat(np.arange(len(numbers), dtype=np.int64), np.diff(begins))
    for row, number in enumerate(numbers):
        place = slice(begins[row], begins[row + 1])
        own = buckets[place]
        found: set[int] = set()
        at = last[own]
        while len(at := at[at >= 0]):
            found.update(rows[at].tolist())
            at = earlier[at]
        candidates = sorted(found)
        if candidates:
            equal = np.count_nonzero(sketches[candidates] == sketches[row], axis=1) / sketches.shape[1]
            alike = np.flatnonzero(equal >= threshold)
            if len(alike):
                pairs.append((int(number), int(numbers[candidates[alike[0]]])))
                continue
        earlier[place] = last[own]
        last[own] = np.arange(begins[row], begins[row + 1])
    return pairs
