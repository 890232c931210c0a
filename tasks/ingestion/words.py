"""Words and their n-grams as 64-bit numbers, of many texts at once, the same on every machine and in every process.

No word becomes an object of Python's: a text's bytes are multiplied by the powers of a number and summed up once, and
the hash of a word is the difference of two of these sums (Karp and Rabin 1987), modulo 2**64, with its bits mixed.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from tasks.ingestion.cleaning import spaced

BLOCK = 1 << 20
"""Bytes that are hashed at once, at 50 bytes of memory for each."""
LONGEST = 1 << 16
"""Bytes of a word behind which it is cut, where a text is longer than a block."""
_FACTOR = 0xD6E8FEB86659FD93
_BASE = 0x9E3779B97F4A7C15
_SPACE = 0x20


def hashed(texts: Sequence[str]) -> tuple[Any, Any]:
    """Cut texts into words, as `cleaning.tokens` does, and hash these.

    Returns:
        An array of 64-bit numbers, a word after the other, and where each text begins in it, and behind the last.
    """
    import numpy as np

    numbers: list[Any] = [np.zeros(0, dtype=np.uint64)]
    counts: list[Any] = [np.zeros(1, dtype=np.int64)]
    for group in _groups([spaced(text).encode() for text in texts]):
        if len(group) == 1 and len(group[0]) > BLOCK:
            of_group = [_words([piece])[0] for piece in _pieces(group[0])]
            counts.append(np.array([sum(map(len, of_group))], dtype=np.int64))
            numbers += of_group
        else:
            found, of_texts = _words(group)
            numbers.append(found)
            counts.append(of_texts)
    return np.concatenate(numbers), np.cumsum(np.concatenate(counts))


def _groups(texts: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Part texts into groups of at most a block, or of one text that is longer."""
    group: list[bytes] = []
    size = 0
    for text in texts:
        if group and size + len(text) > BLOCK:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text) + 1
    if group:
        yield group


def _pieces(text: bytes) -> Iterator[bytes]:
    """Cut a text between words, or inside of one of more than `LONGEST` bytes, into pieces of about a block."""
    start = 0
    while start < len(text):
        end = text.find(b" ", start + BLOCK, start + BLOCK + LONGEST)
        end = start + BLOCK + LONGEST if end < 0 else end
        yield text[start:end]
        start = end


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[Any, Any]:
    """Compute the powers 0, 1, … of the base, and of its inverse, modulo 2**64."""
    import numpy as np

    def of(base: int) -> Any:
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        return np.multiply.accumulate(factors)

    return of(_BASE), of(pow(_BASE, -1, 2**64))


def _words(texts: Sequence[bytes]) -> tuple[Any, Any]:
    """Hash the runs of bytes between spaces, and count those of each text."""
    import numpy as np

    joined = np.frombuffer(b" " + b" ".join(texts) + b" ", dtype=np.uint8)
    inside = joined != _SPACE
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    before, last = edges[0::2], edges[1::2]  # the space before each word, and its last byte
    powers, inverses = _powers(1 << (len(joined) - 1).bit_length())
    sums = np.cumsum(joined * powers[: len(joined)], dtype=np.uint64)
    ends = np.cumsum([len(text) + 1 for text in texts])
    counts = np.diff(np.searchsorted(before, ends), prepend=0)
    return mixed((sums[last] - sums[before]) * inverses[before]), counts


def ngrams(words: Any, n: int) -> Any:
    """Hash every run of n words, at the place of its first one; an empty array for fewer words.

    The hash of a run is a polynomial of its words' hashes, modulo 2**64. Runs go over the ends of texts: their places
    are for the caller to leave out.
    """
    import numpy as np

    count = max(0, len(words) - n + 1)
    found = np.zeros(count, dtype=np.uint64)
    for i in range(n if count else 0):
        found *= np.uint64(_FACTOR)
        found += words[i : i + count]
    return found


def mixed(values: Any) -> Any:
    """Mix the bits of 64-bit numbers (the finaliser of SplitMix64, Steele et al. 2014)."""
    import numpy as np

    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
