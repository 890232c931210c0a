"""What happens to a text before anything learns from it: normalised, scrubbed, cut into words, put on a side.

Everything here is deterministic: it depends on the texts, the recipe's numbers and the seed alone.
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
_SIGN = re.compile(r"\w+|[^\w\s]")
_ARITHMETIC = "+-*/=<>%^"
_ASCII = [chr(i) for i in range(128)]
_NO_TOKEN = "".join(c if re.match(r"\w", c) or c in _ARITHMETIC else " " for c in _ASCII)
"""Of each ASCII character itself, or a space where it ends a token."""
_MARKED = "".join("w" if re.match(r"\w", c) else " " for c in _ASCII).encode().ljust(256)
"""Of each byte of ASCII a `w` in a word, and a space elsewhere."""
_WORD_OR_SPACE = "".join(c for c in _ASCII if re.match(r"[\w\s]", c)).encode()
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
_NAMES_OF_KEYS = ("://", "password", "passwd", "secret", "api_key", "apikey", "token")
_KEY_HINTS = {
    "": ("akia", "asia", "aiza", "eyj"),
    "_": ("gho_", "ghp_", "ghs_", "ghu_", "ghr_", "github_pat_", "hf_"),
    "-": ("private key", "glpat-", "sk-", "xox"),
    ":": _NAMES_OF_KEYS,
    "=": _NAMES_OF_KEYS,
}
"""A sign, to lower-case pieces one of which a text with that sign holds, if `_KEY` matches in it: looking for signs and
pieces first is a hundred times faster."""


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
            found = _KEY.subn("<KEY>", text) if _may_hold_key(text.lower()) else (text, 0)
        elif kind == "phone":
            found = _PHONE.subn("<PHONE>", text)
        else:
            found = _scrub_cards(text)
        text = found[0]
        if found[1]:
            counts[kind] += found[1]
    return text


def _may_hold_key(lower: str) -> bool:
    for sign, hints in _KEY_HINTS.items():
        if sign in lower:
            for hint in hints:  # a loop, for `any` takes three times as long
                if hint in lower:
                    return True
    return False


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
    if text.isprintable() and "  " not in text:  # no white space but single spaces: a third of the time of a split
        return text.strip(" ")
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
    return spaced(text).split()


def spaced(text: str) -> str:
    """Write the tokens of a text, in lower case, with spaces between them and nothing else."""
    if not text.isascii():
        return " ".join(_TOKEN.findall(text.casefold()))
    for sign in _ARITHMETIC:  # by hand what the pattern does, at a third of its time
        if sign in text:
            text = text.replace(sign, f" {sign} ")
    return text.lower().translate(_NO_TOKEN)


def count_signs(text: str) -> int:
    """Count words and other signs; white space is neither."""
    if not text.isascii():
        return len(_SIGN.findall(text))
    raw = text.encode()
    marked = raw.translate(_MARKED)
    return marked.count(b" w") + marked.startswith(b"w") + len(raw.translate(None, _WORD_OR_SPACE))


def ngrams(words: list[str], n: int) -> set[tuple[str, ...]]:
    """List the distinct runs of n words; the whole text when it is shorter than n. Empty for no words."""
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()
