"""Evaluation texts inside training texts, by n-grams of words.

As in GPT-3 (Brown et al. 2020, appendix C), but by the share of an evaluation text's n-grams, so that one common
phrase condemns nothing. An n-gram is kept as a hash of 64 bits and the number of its text, 12 bytes, in sorted arrays.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tasks.ingestion.cleaning import tokens
from tasks.ingestion.words import hashed, ngrams

_TABLE = 22
"""Bits of an n-gram's hash by which most n-grams are told to be in no evaluation text, with one look."""


class Contamination:
    """Finds evaluation texts inside training texts."""

    def __init__(self, ngram: int, overlap: float) -> None:
        """Args: ngram: words in an n-gram; overlap: share of a text's n-grams, 0 to 1, that counts as seeing it."""
        self._n = ngram
        self._overlap = overlap
        self._texts: list[tuple[str, int]] = []
        self._whole: dict[tuple[str, ...], str] = {}
        self._new: list[Any] = []
        self._grams: Any = None
        self._owners: Any = None
        self._table: Any = None

    def add(self, name: str, text: str, *, whole: bool) -> None:
        """Add an evaluation text. One shorter than n words is compared whole, or not at all if not `whole`."""
        import numpy as np

        words = tokens(text)
        if len(words) < self._n:
            if whole and words:
                self._whole.setdefault(tuple(words), name)
            return
        grams = np.unique(ngrams(hashed([text])[0], self._n))
        self._new.append((grams, np.full(len(grams), len(self._texts), dtype=np.uint32)))
        self._texts.append((name, len(grams)))

    def find(self, texts: Iterable[str]) -> tuple[str, float] | None:
        """Find the evaluation text of which most is in `texts`, and the share, 0 to 1; None when under the limit."""
        rows = [list(texts)]
        return self.find_rows(rows, hashed(rows[0]))[0]

    def find_rows(self, rows: Sequence[Sequence[str]], words: tuple[Any, Any]) -> list[tuple[str, float] | None]:
        """Find for each of many rows what `find` finds in its texts.

        Args:
            rows: the texts of each.
            words: what `hashed` makes of the texts of all rows, one after the other.
        """
        flat, begins = words
        of_row = [i for i, row in enumerate(rows) for _ in row]
        found: list[tuple[str, float] | None] = [None] * len(rows)
        if self._whole:
            self._find_whole([text for row in rows for text in row], begins, of_row, found)
        if self._texts:
            for i, grams in self._held(flat, begins, of_row):
                found[i] = found[i] or self._most(grams)
        return found

    def _find_whole(
        self, texts: Sequence[str], begins: Any, of_row: Sequence[int], found: list[tuple[str, float] | None]
    ) -> None:
        """Find short evaluation texts that are among the texts: of each row the first."""
        for at in (begins[1:] - begins[:-1] < self._n).nonzero()[0].tolist():
            if found[of_row[at]] is None and (name := self._whole.get(tuple(tokens(texts[at])))):
                found[of_row[at]] = name, 1.0

    def _held(self, flat: Any, begins: Any, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield each row that has n-grams of evaluation texts, and these; `rows` are those of the texts."""
        import numpy as np

        self._sort()
        grams = ngrams(flat, self._n)
        inside = np.ones(len(grams) + self._n, dtype=bool)  # the run ends where its text ends
        for i in range(1, self._n):
            ends = begins[1:] - i
            inside[ends[ends >= 0]] = False
        places = np.flatnonzero(inside[: len(grams)] & self._table[(grams >> np.uint64(64 - _TABLE)).astype(np.int64)])
        nearest = np.searchsorted(self._grams, grams[places]).clip(max=len(self._grams) - 1)
        places = places[self._grams[nearest] == grams[places]]
        of_place = np.array(rows, dtype=np.int64)[np.searchsorted(begins, places, side="right") - 1]
        for row in np.unique(of_place).tolist():
            yield row, np.unique(grams[places[of_place == row]])

    def _most(self, grams: Any) -> tuple[str, float] | None:
        """Find the text that has most of its n-grams among these; None when under the limit."""
        import numpy as np

        begins, ends = (np.searchsorted(self._grams, grams, side) for side in ("left", "right"))
        owners = np.concatenate([self._owners[begin:end] for begin, end in zip(begins, ends, strict=True)])
        numbers, counts = np.unique(owners, return_counts=True)
        pairs = zip(numbers.tolist(), counts.tolist(), strict=True)
        share, i = max((count / self._texts[number][1], -number) for number, count in pairs)
        return (self._texts[-i][0], round(share, 3)) if share >= self._overlap else None

    def _sort(self) -> None:
        """Bring the n-grams that were added since into the arrays; those of one hash in the order of their texts."""
        import numpy as np

        if not self._new:
            return
        parts = [*([] if self._grams is None else [(self._grams, self._owners)]), *self._new]
        grams = np.concatenate([part[0] for part in parts])
        order = np.argsort(grams, kind="stable")
        self._grams, self._owners = grams[order], np.concatenate([part[1] for part in parts])[order]
        self._table = np.zeros(1 << _TABLE, dtype=bool)
        self._table[(self._grams >> np.uint64(64 - _TABLE)).astype(np.int64)] = True
        self._new = []
