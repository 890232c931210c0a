"""Postings: which words a chunk has and how often, as numbers, from which BM25's scores are computed at once.

    vocabulary = {}                                       # word to number; grows
    counted = count(["a heron flies"], words, vocabulary)
    matrix = scored(counted, len(vocabulary), settings)   # of shape [chunks, words that occur]

The scores are BM25's as `bm25s` computes them chunk by chunk (arXiv:2407.03618; the variants: Kamphuis et al., 2020),
with the same roundings, and so are the numbers of words: in the order in which the chunks first have them. Neither
depends on what else is in the vocabulary.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from numpy import int32
    from numpy.typing import NDArray

Method = Literal["lucene", "robertson", "atire"]
"""Variant of BM25, in the names of `bm25s`."""


class Postings(NamedTuple):
    """The words of some chunks, chunk by chunk, each word of a chunk once, in the order of its first occurrence."""

    sizes: "NDArray[int32]"
    """Number of different words of each chunk, of shape [chunks]."""
    lengths: "NDArray[int32]"
    """Number of words of each chunk, of the same shape."""
    words: "NDArray[int32]"
    """Numbers of the words in a vocabulary, of shape [sum of sizes]."""
    counts: "NDArray[int32]"
    """How often the chunk has each of them, of the same shape as `words`."""

    def to_bytes(self) -> bytes:
        """Return the number of chunks and the four arrays, as int32."""
        import numpy as np

        return np.concatenate([np.array([len(self.sizes)], np.int32), *self]).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Postings":
        """Read what `to_bytes` wrote, without a copy."""
        import numpy as np

        numbers = np.frombuffer(data, np.int32)
        chunks = int(numbers[0])
        start, half = 1 + 2 * chunks, (len(numbers) - 1 - 2 * chunks) // 2
        return cls(
            numbers[1 : 1 + chunks], numbers[1 + chunks : start], numbers[start : start + half], numbers[start + half :]
        )


class Matrix(NamedTuple):
    """Scores of words in chunks, word by word, as `bm25s` keeps them."""

    data: Any
    """Scores, float32 of shape [postings]."""
    indices: Any
    """Rows of the chunks, int32 of the same shape, ascending within a word."""
    indptr: Any
    """Where each word's postings start and end, int64 of shape [words + 1]."""
    words: Any
    """Number in the vocabulary of each word, int64 of shape [words]."""


def count(texts: Iterable[str], words_of: Callable[[str], Sequence[str]], vocabulary: dict[str, int]) -> Postings:
    """Count the words of texts.

    Args:
        texts: of the chunks.
        words_of: cuts a text into words.
        vocabulary: word to number; new words are added with the next numbers.
    """
    import numpy as np

    sizes: list[int] = []
    lengths: list[int] = []
    words: list[int] = []
    counts: list[int] = []
    for text in texts:
        found = words_of(text)
        counted = Counter(found)
        sizes.append(len(counted))
        lengths.append(len(found))
        words.extend([vocabulary.setdefault(word, len(vocabulary)) for word in counted])
        counts.extend(counted.values())
    return Postings(*(np.array(numbers, np.int32) for numbers in (sizes, lengths, words, counts)))


def joined(parts: Sequence[Postings]) -> Postings:
    """Put the postings of consecutive chunks, by one vocabulary, together."""
    import numpy as np

    return Postings(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def scored(of: Postings, words: int, method: Method, k1: float, b: float) -> Matrix:
    """Compute BM25's score of each word in each chunk.

    Takes about 35 bytes of memory a posting besides the postings themselves.

    Args:
        of: postings of all chunks, at least one.
        words: size of the vocabulary.
        method: variant of BM25.
        k1: how much a word's repetition in a chunk counts.
        b: how much a chunk's length counts against it, 0 to 1.
    """
    import numpy as np
    from scipy.sparse import csr_matrix

    ends = np.concatenate([[0], np.cumsum(of.sizes, dtype=np.int64)]).astype(np.int32)
    counts = of.counts.astype(np.float32)
    frequency = np.bincount(of.words, minlength=words)
    # As bm25s: a quotient of float64, but for the product of `atire`, times the float32 of idf, rounded at the end.
    value = np.repeat(k1 * ((1 - b) + b * of.lengths.astype(np.int64) / of.lengths.mean()), of.sizes)
    value += counts
    np.divide(counts * np.float32(k1 + 1) if method == "atire" else counts, value, out=value)
    value *= _idf(frequency, len(of.sizes), method)[of.words]
    first = np.full(words, len(of.words))
    np.minimum.at(first, of.words, np.arange(len(of.words)))
    kept = np.argsort(first, kind="stable")[: np.count_nonzero(frequency)]
    number = np.empty(words, np.int32)
    number[kept] = np.arange(len(kept))
    shape = len(of.sizes), len(kept)
    by_word = csr_matrix((value.astype(np.float32), number[of.words], ends), shape=shape).tocsc()
    return Matrix(by_word.data, by_word.indices, by_word.indptr.astype(np.int64), kept)


def _idf(frequency: Any, chunks: int, method: Method) -> Any:
    """Return the weight of each word by the number of chunks that have it, float32; 0 for one that none has."""
    import numpy as np

    weigh: dict[Method, Callable[[int], float]] = {
        "lucene": lambda n: math.log(1 + (chunks - n + 0.5) / (n + 0.5)),
        "robertson": lambda n: math.log(max(1, (chunks - n + 0.5) / (n + 0.5))),
        "atire": lambda n: math.log(chunks / n),
    }
    different, which = np.unique(frequency, return_inverse=True)
    return np.array([weigh[method](int(n)) if n else 0.0 for n in different], np.float32)[which]
