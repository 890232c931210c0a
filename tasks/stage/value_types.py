"""Values of a recipe file that a library or a function takes as they are, against the types that it declares.

Only what no library takes back is refused: text, a list or a mapping where a number is declared, and text where yes or
no is. Declared types are not always kept by those who declare them (`lora_alpha: int` takes 0.5), so a number is a
number, and what has another type than these is left to the library.
"""

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

NUMBERS = (int, float)


def wrong(values: Mapping[str, Any], declared: Any) -> Iterator[tuple[str, str]]:
    """Find values that are not of the declared type.

    Args:
        values: name to value.
        declared: the dataclass or function that they go to; names without an annotation are passed over.

    Yields:
        The name, and what is expected: `a number`, `a number or a list of numbers`, `true or false`.
    """
    hints = _hints(declared)
    for key, value in values.items():
        expected = _expected(hints.get(key), value)
        if expected is not None:
            yield key, expected


def _hints(declared: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(declared)
    except (AttributeError, NameError, TypeError):  # annotations that only a type checker can read
        return {}


def _expected(hint: Any, value: Any) -> str | None:
    """Say what is expected in place of a value; None where it fits, or where the type is none that is looked at."""
    choices = set(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, types.UnionType) else {hint}
    choices -= {type(None)}
    if value is None or not choices:
        return None
    lists = {choice for choice in choices if typing.get_origin(choice) is list and _of_numbers(choice)}
    plain = choices - lists
    if not plain <= {*NUMBERS, bool}:
        return None
    if isinstance(value, list):
        fits = bool(lists) and all(isinstance(v, NUMBERS) and not isinstance(v, bool) for v in value)
    else:
        fits = bool in plain if isinstance(value, bool) else isinstance(value, NUMBERS) and bool(plain)
    if fits:
        return None
    if plain == {bool}:
        return "true or false"
    return " or ".join([*(["a number"] if plain else []), *(["a list of numbers"] if lists else [])])


def _of_numbers(choice: Any) -> bool:
    items = typing.get_args(choice)
    return bool(items) and set(items) <= set(NUMBERS)
