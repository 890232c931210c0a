"""What happens to text before anything learns from it: normalise, scrub, remove duplicates, split, decontaminate.

Everything here is deterministic: it depends on the texts, the recipe's numbers and the seed alone.

- Near-duplicates: MinHash over word n-grams, found by locality-sensitive hashing (Broder 1997; `datasketch`).
- Decontamination: n-gram overlap with every evaluation row, as in GPT-3 (Brown et al. 2020, appendix C), but by the
  share of an evaluation text's n-grams, so that one common phrase condemns nothing.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

Kind = Literal["email", "phone", "card", "key"]
"""Kinds of personal or secret text that can be scrubbed."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\u200b\u2060]")
_TOKEN = re.compile(r"\w+|[+\-*/=<>%^]")
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[a-z]{2,24}\b", re.I)
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w|\.\d)")
_PHONE = re.compile(
    r"(?<![\w.+])(?:"
    r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # +44 20 7946 0958
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}"  # (212) 555-0123
    r"|\d{3}([.-])\d{3}\1\d{4}"  # 212-555-0123
    r"|0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,5}"  # 020 7946 0958
    r")(?!\w)"
)
_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----.*?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[opsur]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{40,}\b|\bglpat-[\w-]{20,}"  # GitHub, GitLab
    r"|\bhf_[A-Za-z0-9]{30,}\b|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"  # JSON web token
    r"|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"  # password inside a URL
    r"|(?:(?<=password)|(?<=passwd)|(?<=secret)|(?<=api_key)|(?<=apikey)|(?<=token))[\"']?\s*[:=]\s*[\"']?"
    r"(?=[\w+/.~-]*\d)[\w+/.~-]{12,}",
    re.S | re.I,
)
_KEY_HINTS = (
    "private key", "akia", "asia", "gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "hf_", "sk-", "xox",
    "aiza", "eyj", "://", "password", "passwd", "secret", "api_key", "apikey", "token",
)  # fmt: skip
"""Lower-case pieces without which `_KEY` cannot match: looking for them first is fifty times faster."""


def normalise(text: str) -> str:
    """Unicode NFC, `\\n` line ends, no control or zero-width characters, no white space at line ends, around the text,
    nor more than one blank line. Indentation and spaces inside a line stay: they mean something in code.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text)
    if "\n" in text:
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n")))
        return text.strip("\n").rstrip()
    return text.strip()


def scrub(text: str, kinds: Iterable[Kind], counts: Counter[str]) -> str:
    """Replace personal and secret text by `<EMAIL>`, `<PHONE>`, `<CARD>`, `<KEY>`, and count what was replaced.

    Cards are 13 to 19 digits with a right Luhn sum. Patterns find what looks like one: they are a net, not a proof.
    """
    for kind in kinds:
        if kind == "email":
            found = _EMAIL.subn("<EMAIL>", text) if "@" in text else (text, 0)
        elif kind == "key":
            lower = text.lower()
            found = _KEY.subn("<KEY>", text) if any(hint in lower for hint in _KEY_HINTS) else (text, 0)
        elif kind == "phone":
            found = _PHONE.subn("<PHONE>", text)
        else:
            found = _scrub_cards(text)
        text = found[0]
        if found[1]:
            counts[kind] += found[1]
    return text


def luhn(digits: str) -> bool:
    """Tell whether a string of digits ends with its right check digit (ISO/IEC 7812-1, annex B)."""
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _scrub_cards(text: str) -> tuple[str, int]:
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        digits = re.sub(r"\D", "", match.group())
        if not luhn(digits) or len(set(digits)) == 1:
            return match.group()
        count += 1
        return "<CARD>"

    return _CARD.sub(replace, text), count


def walk(value: Any, kinds: Iterable[Kind], counts: Counter[str]) -> Any:
    """Normalise and scrub every string inside lists and mappings."""
    if isinstance(value, str):
        return scrub(normalise(value), kinds, counts)
    if isinstance(value, dict):
        return {key: walk(inner, kinds, counts) for key, inner in value.items()}
    if isinstance(value, list):
        return [walk(inner, kinds, counts) for inner in value]
    return value


def same(text: str) -> str:
    """Reduce a text to what it has in common with those that differ from it in white space only."""
    return " ".join(text.split())


def split_of(group: str, seed: int, validation: float, test: float) -> str:
    """Choose `train`, `validation` or `test` by the group's text and the seed alone, whatever set the row is in.

    Args:
        group: rows of one group are never parted.
        seed: another seed, another split.
        validation: share of groups, 0 to 1.
        test: share of groups, 0 to 1.
    """
    text = f"{seed}:{same(group).casefold()}"
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    return "test" if place < test else "validation" if place < test + validation else "train"


def tokens(text: str) -> list[str]:
    """Split a text into what n-grams are made of: words, numbers and arithmetic signs, in lower case."""
    return _TOKEN.findall(text.casefold())


def ngrams(words: list[str], n: int) -> set[tuple[str, ...]]:
    """List the distinct runs of n words; the whole text when it is shorter than n. Empty for no words."""
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def near_duplicates(
    texts: list[str], *, threshold: float, permutations: int, ngram: int, seed: int
) -> list[tuple[int, int]]:
    """Find pairs (duplicate, the earlier text that it repeats). The first of a family stays.

    Args:
        texts: what to compare.
        threshold: estimated Jaccard similarity of the sets of n-grams from which two texts count as the same.
        permutations: hash functions of MinHash; the estimate's standard error is about 1 / sqrt(permutations).
        ngram: words in an n-gram.
        seed: seed of the hash functions.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=permutations)
    sketches: dict[int, Any] = {}
    pairs = []
    grams = ([" ".join(gram).encode() for gram in ngrams(tokens(text), ngram)] for text in texts)
    for i, sketch in enumerate(MinHash.generator(grams, num_perm=permutations, seed=seed)):
        alike = sorted(j for j in index.query(sketch) if sketch.jaccard(sketches[j]) >= threshold)
        if alike:
            pairs.append((i, alike[0]))
        else:
            index.insert(i, sketch)
            sketches[i] = sketch
    return pairs


class Contamination:
    """Finds evaluation texts inside training texts."""

    def __init__(self, ngram: int, overlap: float) -> None:
        """Args: ngram: words in an n-gram; overlap: share of a text's n-grams, 0 to 1, that counts as seeing it."""
        self._n = ngram
        self._overlap = overlap
        self._texts: list[tuple[str, int]] = []
        self._grams: dict[tuple[str, ...], list[int]] = {}
        self._whole: dict[tuple[str, ...], str] = {}

    def add(self, name: str, text: str, *, whole: bool) -> None:
        """Add an evaluation text. One shorter than n words is compared whole, or not at all if not `whole`."""
        words = tokens(text)
        if len(words) < self._n:
            if whole and words:
                self._whole.setdefault(tuple(words), name)
            return
        grams = ngrams(words, self._n)
        for gram in grams:
            self._grams.setdefault(gram, []).append(len(self._texts))
        self._texts.append((name, len(grams)))

    def find(self, texts: Iterable[str]) -> tuple[str, float] | None:
        """Find the evaluation text of which most is in `texts`, and the share, 0 to 1; None when under the limit."""
        hits: Counter[int] = Counter()
        grams: set[tuple[str, ...]] = set()
        for text in texts:
            words = tokens(text)
            if tuple(words) in self._whole:
                return self._whole[tuple(words)], 1.0
            if len(words) >= self._n:
                grams |= ngrams(words, self._n)
        for gram in grams:
            hits.update(self._grams.get(gram, ()))
        shares = [(count / self._texts[i][1], -i) for i, count in hits.items()]
        if not shares or max(shares)[0] < self._overlap:
            return None
        share, i = max(shares)
        return self._texts[-i][0], round(share, 3)
