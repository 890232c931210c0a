"""Numbers as people and LaTeX write them: which one a text commits to, and whether two have the same value.

Values are compared by math-verify (https://github.com/huggingface/Math-Verify). The value decides and not the form,
with two exceptions, as repeating the question is no answer: a fraction must be in lowest terms (`12/4` is not 3), and
roots and powers count only where the answer has some (`2^{10}` is not 1024). Left out: sums (`2+\\sqrt{3}`), sets,
intervals, units.
"""

import logging
import math
import re
from functools import lru_cache
from typing import Any

from tasks.grading import answers

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?"
_ROOT = rf"\\sqrt(?:\[[0-9]\])?\s*(?:\{{{_DIGITS}\}}|[0-9])"
_FACTOR = rf"(?:{_ROOT}|\\pi(?![a-z])|π)"
_ARGUMENT = rf"\{{-?(?:{_DIGITS})?{_FACTOR}?\}}"
_FRACTION = rf"\\[dt]?frac\s*(?:{_ARGUMENT}\s*{_ARGUMENT}|[0-9][0-9])"
_POWER = r"\^\s*(?:\{-?[0-9]{1,2}\}|[0-9]{1,2}(?![0-9]))"
_TERM = re.compile(
    rf"(?:(?<![\w.,])-)?(?:{_DIGITS}(?:\s*/\s*{_DIGITS})?(?:{_POWER})?(?:\s*(?:{_FRACTION}|{_FACTOR}))?"
    rf"|(?:{_FRACTION}|{_FACTOR})(?:\s*{_FACTOR})?)(?:\s*\\?%)?"
)
"""One number as people write it: 1,250.5, 3/4, 50%, `2^{10}`, `3\\frac{1}{2}`. No sums: `58 + 67` is no answer."""
_PLAIN = re.compile(rf"-?{_DIGITS}")
_SYMBOLIC = re.compile(r"sqrt|pi|π|\^")
_PARTS = re.compile(r"([0-9.,]+)\s*/\s*([0-9.,]+)|frac\s*\{-?([0-9.,]+)\}\s*\{-?([0-9.,]+)\}|frac\s*([0-9])([0-9])")
_LONGEST_TERM = 60
"""Longest term that is compared, in characters. Together with `_POWER` it bounds the time of the comparison."""


def committed(text: str) -> str | None:
    """Return the number that a text commits to, as it is written there.

    Each number is replaced by its index, so that `final_number` decides for fractions and roots as for plain numbers.
    """
    text = text.replace("\u2212", "-")
    terms = _TERM.findall(text)
    indices = iter(range(len(terms)))
    index = answers.final_number(_TERM.sub(lambda _: f" {next(indices)} ", text))
    return None if index is None else terms[int(index)]


def same(wanted: str, given: str) -> bool:
    """Whether two numbers, as `committed` returns them, have the same value; `wanted` is the answer's."""
    if _PLAIN.fullmatch(wanted) and _PLAIN.fullmatch(given):
        return answers.final_number(given) == answers.final_number(wanted)
    if len(given) > _LONGEST_TERM or not _in_lowest_terms(given):
        return False
    return (not _SYMBOLIC.search(given) or bool(_SYMBOLIC.search(wanted))) and _same_value(wanted, given)


def _in_lowest_terms(term: str) -> bool:
    fraction = _PARTS.search(term)
    if not fraction:
        return True
    above, below = (digits for digits in fraction.groups() if digits is not None)
    return above.isdecimal() and below.isdecimal() and int(below) > 1 and math.gcd(int(above), int(below)) == 1


def _same_value(wanted: str, given: str) -> bool:
    from math_verify import verify

    # A timeout would need the main thread (SIGALRM), and would make the grade depend on how busy the machine is.
    return verify(_parsed(wanted), _parsed(given), timeout_seconds=None)


@lru_cache(maxsize=4096)
def _parsed(term: str) -> list[Any]:
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of every thread that it has no timeout
    latex = term.replace("\\%", "%").replace("π", "\\pi ")
    return list(parse(f"${latex}$", fallback_mode="no_fallback", parsing_timeout=None))
