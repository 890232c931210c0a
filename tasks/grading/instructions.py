"""Instructions whose following can be checked by a program, after IFEval (arXiv:2311.07911).

A checker is a plain function `check(response, **args) -> bool`; a row names it in its `instructions`, e.g.
`[{"check": "ends_with", "text": "Done."}]`. Following and being right are apart: a checker never looks whether the
answer is right. Left out of IFEval: its loose score (the response without its first or last line), and
everything longer than a line. No checker passes an empty response.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError

_NUMBER = r"[-\u2212]?[0-9][0-9,]*(?:\.[0-9]+)?"
_BRACKETED = re.compile(rf"\(\s*{_NUMBER}\s*\)|\[\s*{_NUMBER}\s*\]")
_QUOTED = re.compile(rf'"\s*{_NUMBER}\s*"|“\s*{_NUMBER}\s*”')


def starts_with(response: str, text: str) -> bool:
    """Whether the response begins with `text`, letter case and all."""
    return response.lstrip().startswith(text)


def ends_with(response: str, text: str) -> bool:
    """Whether the response ends with `text`, letter case and all."""
    return response.rstrip().endswith(text)


def upper_case(response: str) -> bool:
    """Whether there are letters, and all of them are capitals."""
    return response.isupper()


def lower_case(response: str) -> bool:
    """Whether there are letters, and none of them is a capital."""
    return response.islower()


def contains(response: str, word: str, times: int) -> bool:
    """Whether `word` stands in the response exactly `times` times, as a word of its own, in any letter case."""
    return _occurrences(response, word) == times


def no_word(response: str, word: str) -> bool:
    """Whether the response says something without using `word`."""
    return bool(response.strip()) and _occurrences(response, word) == 0


def json_with(response: str, key: str, value: str | None = None) -> bool:
    """Whether the response is one JSON object with `key`, and where `value` is given, with that value (as text)."""
    try:
        document = json_document(response)
    except ValueError:
        return False
    if not isinstance(document, dict) or key not in document:
        return False
    content = document[key]
    return value is None or value == (content if isinstance(content, str) else json.dumps(content))


def in_brackets(response: str) -> bool:
    """Whether exactly one number stands in round or square brackets."""
    return len(_BRACKETED.findall(response)) == 1


def quoted(response: str) -> bool:
    """Whether exactly one number stands in double quotes."""
    return len(_QUOTED.findall(response)) == 1


def words_at_most(response: str, count: int) -> bool:
    """Whether the response has one to `count` words, counted by white space."""
    return 1 <= len(response.split()) <= count


def repeated(response: str, times: int, text: str | None = None) -> bool:
    """Whether the response is the same thing said exactly `times` times, and where `text` is given, that text."""
    unit = repeated_unit(response, times)
    return bool(unit) and (text is None or unit.split() == _bare_words(text))


def only_number(response: str) -> bool:
    """Whether the response is one number and nothing else."""
    return re.fullmatch(_NUMBER, response.strip()) is not None


def followed(response: str, instructions: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Say of each instruction whether the response follows it, in their order.

    Arguments that are null count as not given: Arrow gives every row of a column the union of all keys.

    Raises:
        ConfigError: an unknown check, or arguments that are not the check's.
    """
    results = []
    for number, instruction in enumerate(instructions):
        args = {key: value for key, value in instruction.items() if key != "check" and value is not None}
        check = _checker(number, instruction, args)
        results.append(check(response, **args))
    return results


def json_document(text: str) -> Any:
    """Parse a text that is one JSON document, in a ```` ```json ```` fence or bare.

    A repeated key is refused: the last one would win, and the others would be guesses for free.

    Raises:
        ValueError: anything else.
    """
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and len(body) > 6:
        body = body[3:-3].removeprefix("json")
    try:
        return json.loads(body, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def repeated_unit(response: str, times: int) -> str:
    """Return the words that a response says exactly `times` times, without punctuation at their ends; else nothing."""
    words = _bare_words(response)
    unit = words[: len(words) // times]
    return " ".join(unit) if unit and unit * times == words and not _repeats(unit) else ""


def _checker(number: int, instruction: Mapping[str, Any], args: Mapping[str, Any]) -> Callable[..., bool]:
    """Return the function that an instruction names. Raises ConfigError for an unknown one, or other arguments."""
    where = f"instructions[{number}]"
    name = instruction.get("check")
    checks = {n: f for n, f in globals().items() if inspect.isfunction(f) and f.__annotations__.get("return") is bool}
    if name not in checks:
        raise ConfigError(f"{where}: unknown check '{name}'{suggest(str(name), checks)}")
    try:
        inspect.signature(checks[name]).bind("", **args)
    except TypeError as e:
        takes = ", ".join(list(inspect.signature(checks[name]).parameters)[1:]) or "none"
        raise ConfigError(f"{where}: '{name}' {e}; its arguments are: {takes}") from None
    return checks[name]


def _occurrences(text: str, word: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.I))


def _bare_words(text: str) -> list[str]:
    return [bare for word in text.split() if (bare := word.strip(".,;!"))]


def _repeats(words: list[str]) -> bool:
    sizes = (size for size in range(1, len(words) // 2 + 1) if len(words) % size == 0)
    return any(words[:size] * (len(words) // size) == words for size in sizes)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key is repeated")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
