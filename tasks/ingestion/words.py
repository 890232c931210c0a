"""Words and their n-grams as 64-bit numbers, of many texts at once, the same on every machine and in every process."""

import hashlib
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

MOST = 1_000_000
"""Words whose hash is kept; a text of more different ones costs time, and no result."""
_FACTOR = 0xD6E8FEB86659FD93


class _Hashes(dict[str, int]):
    """Words to the first 8 bytes of their BLAKE2b hash, as they are asked for."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MOST:
            self.clear()
        self[word] = number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return number


_HASHES = _Hashes()


def hashed(texts: Sequence[Sequence[str]]) -> tuple[Any, list[int]]:
    """Hash the words of texts.

    Returns:
        An array of 64-bit numbers, a word after the other, and where each text begins in it, and behind the last.
    """
    import numpy as np

    numbers = list(map(_HASHES.__getitem__, chain.from_iterable(texts)))
    return np.array(numbers, dtype=np.uint64), [0, *accumulate(map(len, texts))]


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
