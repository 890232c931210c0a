"""The lexical index: BM25 over chunks with `bm25s` (arXiv:2407.03618), scored when it is built and read from the disk.

    build(texts, folder, settings)
    scores, rows = Lexical.open(folder).search(["Where was Ada Pell born?"], k=3)

Words are what a regular expression of the recipe finds in the text, in Unicode's composed form (NFC) and in lower case
if the recipe says so; nothing is stemmed. What of a question stands in no chunk is passed over.
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from tasks.retrieval.postings import Method, Postings, count, scored
from tasks.stage.artifact import read_json, write_json
from tasks.stage.config import Strict
from tasks.stage.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import numpy

SETTINGS = "settings.json"
_SOME = 8_192
"""Rows of which the best k give a bound below which no score is among the best k of all."""
NO_ROW = -1
"""Row of a place in the results for which no chunk is left that shares a word with the question."""


class LexicalSettings(Strict):
    """How words are told apart and weighed."""

    method: Method
    """Variant of BM25, in the names of `bm25s`. Only `lucene` and `atire` weigh a word that most chunks have."""
    k1: float = Field(ge=0)
    """How much a word's repetition in a chunk counts; 0: not at all."""
    b: float = Field(ge=0, le=1)
    """How much a chunk's length counts against it, 0 to 1."""
    words: str
    """Regular expression of a word, e.g. `\\w+`."""
    lowercase: bool
    """Whether `Ada` and `ada` are one word."""
    stopwords: list[str]
    """Words that are left out of chunks and questions; written in lower case if `lowercase` is set."""

    @field_validator("words")
    @classmethod
    def _compiles(cls, words: str) -> str:
        """Refuse what is no regular expression of one word."""
        try:
            pattern = re.compile(words)
        except re.error as e:
            raise ValueError(f"is no regular expression ({e})") from None
        if pattern.groups:
            raise ValueError("has groups; write (?:…) for them")
        if pattern.match(""):
            raise ValueError("matches a word without letters; write + for *")
        return words


class Words:
    """Cuts texts into words, as the settings say."""

    def __init__(self, settings: LexicalSettings) -> None:
        """Args: settings: those of the index."""
        self._find = re.compile(settings.words).findall
        self._lowercase = settings.lowercase
        self._stopwords = frozenset(settings.stopwords)

    def of(self, text: str) -> list[str]:
        """List the words of a text in their order, repeated ones too."""
        text = unicodedata.normalize("NFC", text)
        words: list[str] = self._find(text.lower() if self._lowercase else text)
        return [word for word in words if word not in self._stopwords] if self._stopwords else words


def build(texts: Iterable[str], folder: Path, settings: LexicalSettings) -> None:
    """Write the index of texts into a new folder: row i is the i-th text; equal bytes for equal texts and settings.

    Args:
        texts: of the chunks; they are not kept.
        folder: where the index goes.
        settings: kept beside the index, so that questions are cut into words in the same way.

    Raises:
        DataError: there is not one word in the texts.
    """
    vocabulary: dict[str, int] = {}
    build_counted(count(texts, Words(settings).of, vocabulary), list(vocabulary), folder, settings)


def build_counted(postings: Postings, vocabulary: Sequence[str], folder: Path, settings: LexicalSettings) -> None:
    """Write the index of chunks whose words have been counted; the same bytes as from their texts.

    A different word of a chunk takes about 45 bytes of memory while the index is built, its count included: 0.2 GB at
    100,000 chunks of 64 words (`python -m bench.retrieval --only lexical`).

    Args:
        postings: of all chunks, counted in words that `settings` says.
        vocabulary: the words by their numbers, those that occur in no chunk too.
        folder: where the index goes.
        settings: kept beside the index.

    Raises:
        DataError: there is not one word in the chunks.
    """
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    if not len(postings.words):
        chunks = len(postings.sizes)
        raise DataError(f"none of the {chunks} chunks has a word by 'words: {settings.words}'; change it")
    matrix = scored(postings, len(vocabulary), settings.method, settings.k1, settings.b)
    index = bm25s.BM25(k1=settings.k1, b=settings.b, method=settings.method, backend="numpy")
    index.scores = {
        "data": matrix.data,
        "indices": matrix.indices,
        "indptr": matrix.indptr,
        "num_docs": len(postings.sizes),
    }
    index.vocab_dict = {vocabulary[word]: at for at, word in enumerate(matrix.words.tolist())}
    index.nonoccurrence_array = None
    index.save(folder, show_progress=False)
    write_json(folder / SETTINGS, settings.model_dump(mode="json"))


class Lexical:
    """An index on the disk, of which the parts that a question needs are mapped into memory."""

    def __init__(self, index: Any, settings: LexicalSettings) -> None:
        """Args: index: `bm25s.BM25`; settings: what it was built with."""
        self._index = index
        self._words = Words(settings)
        self.settings = settings
        self.size = int(index.scores["num_docs"])
        """Number of rows."""

    @classmethod
    def open(cls, folder: Path) -> "Lexical":
        """Map an index that `build` wrote into memory. Raises ArtifactError where there is none, or a broken one."""
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        settings = read_json(folder / SETTINGS)
        try:
            index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
            return cls(index, LexicalSettings.model_validate(settings))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ArtifactError(f"{folder}: no lexical index ({e}); delete it and run `polm run`") from None

    def search(self, queries: Sequence[str], k: int) -> "tuple[numpy.ndarray[Any, Any], numpy.ndarray[Any, Any]]":
        """Find the chunks that share the weightiest words with each query.

        Args:
            queries: questions, in plain text.
            k: most chunks for each of them, at least 1.

        Returns:
            `scores`, float32 of shape [queries, k], descending, and `rows`, int64 of the same shape. Of equal scores
            the lower row comes first. A chunk without a word of the query is no result: where fewer than k are left,
            the row is -1 and the score 0.
        """
        import numpy as np

        scores = np.zeros((len(queries), k), dtype=np.float32)
        rows = np.full((len(queries), k), NO_ROW, dtype=np.int64)
        for at, query in enumerate(queries):
            ids = self._index.get_tokens_ids(self._words.of(query))
            if not ids:
                continue
            of_rows = self._index.get_scores_from_ids(ids)
            best = _best(of_rows, k)
            rows[at, : len(best)] = best
            scores[at, : len(best)] = of_rows[best]
        return scores, rows


def _best(scores: Any, k: int) -> Any:
    """List the rows of the k highest scores above 0, the highest first, and of equal ones the lowest row first."""
    import numpy as np

    some = scores[:_SOME]
    bound = np.partition(some, len(some) - k)[len(some) - k] if len(some) > k else 0  # no score below is of the best k
    candidates = np.flatnonzero(scores >= bound) if bound > 0 else np.flatnonzero(scores > 0)
    if len(candidates) > k:
        least = np.partition(scores[candidates], len(candidates) - k)[len(candidates) - k]
        above, equal = candidates[scores[candidates] > least], candidates[scores[candidates] == least]
        candidates = np.concatenate([above, equal[: k - len(above)]])
    return candidates[np.lexsort((candidates, -scores[candidates]))]
