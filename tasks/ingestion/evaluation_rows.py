"""The evaluation rows that no training row may contain, whatever set or wording it comes in."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.ingestion.contamination import Contamination


class EvaluationRows:
    """What may not be trained on: groups, questions, and answers that are long enough to be n-grams."""

    def __init__(self, ngram: int, overlap: float) -> None:
        """Begin with none.

        Args:
            ngram: words in an n-gram.
            overlap: share of an evaluation text's n-grams, 0 to 1, from which a training row is dropped.
        """
        self._index = Contamination(ngram, overlap)
        self._groups: dict[bytes, str] = {}

    def protect(self, name: str, row: Mapping[str, str], group: bytes, has_media: bool) -> None:
        """Remember one row of an evaluation set.

        Args:
            name: of the row, `set#id`.
            row: with `question` and `answer`.
            group: key of its group.
            has_media: whether it has pictures or sounds. Its question is then asked of every one of them, and what is
                held out is that.
        """
        self._groups[group] = name
        if not has_media:
            self._index.add(name, row["question"], whole=True)
            self._index.add(name, row["answer"], whole=False)

    def protect_texts(self, name: str, whole: list[str], long: list[str]) -> None:
        """Remember the texts of one document of a published benchmark.

        Args:
            name: of the document, `set#id`.
            whole: texts that count however short they are.
            long: texts that count where they are long enough to be n-grams.
        """
        for text in dict.fromkeys(whole):
            self._index.add(name, text, whole=True)
        for text in dict.fromkeys(long):
            if text not in whole:
                self._index.add(name, text, whole=False)

    def contained(
        self, rows: Sequence[Sequence[str]], words: tuple[Any, Any], groups: Sequence[bytes]
    ) -> list[tuple[str, float] | None]:
        """Find for each training row the evaluation row that it contains, and the share of it; None for none.

        Args:
            rows: the texts of each row.
            words: what `hashed` makes of the texts of all rows, one after the other.
            groups: keys of the rows' groups.
        """
        found = self._index.find_rows(rows, words)
        return [
            (self._groups[group], 1.0) if overlap is None and group in self._groups else overlap
            for overlap, group in zip(found, groups, strict=True)
        ]


def group_key(group: str) -> bytes:
    """Hash a group's name, in lower case and single spaces, to 16 bytes."""
    return hashlib.blake2b(group.encode(), digest_size=16).digest()
