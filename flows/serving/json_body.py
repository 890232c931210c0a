"""A request's body as JSON that every reader understands alike: UTF-8, finite numbers, whole characters, no key twice.

Python's parser takes more than that, and RFC 8259 leaves open what a reader makes of it (sections 4, 6 and 8.2): which
of two values of a key was meant, nobody can tell, and half of a surrogate pair has no bytes in UTF-8, so that neither a
tokenizer nor an answer can hold it.
"""

import json
import math
import re
from typing import Any

Path = tuple[int | str, ...]
"""Keys and indices from the body down to a value."""
DEPTH = 32
"""Levels of arrays and objects in each other that are read. A request has five."""
DIGITS = 300
"""Digits of an integer that are read; a float has no room for more."""
HALF = re.compile("[\ud800-\udfff]")
"""Pattern of a surrogate without its partner: Python's parser joins whole pairs."""
SHOWN = 60
"""Characters of a value that a message shows."""


class BodyError(Exception):
    """The body cannot be read."""

    def __init__(self, message: str, path: Path = ()) -> None:
        """Say what is wrong, and where in the body, if a place can be named."""
        super().__init__(message)
        self.path = path


class _Twice(dict[str, Any]):
    """An object in whose text a key stands twice."""

    key = ""


def read(body: bytes) -> Any:
    """Read a body.

    Raises:
        BodyError: it is not UTF-8 or not JSON, or holds what readers understand differently.
    """
    try:
        text = body.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except UnicodeDecodeError as e:
        raise BodyError(f"the body is not UTF-8: byte {e.start} is 0x{body[e.start]:02x}; send JSON in UTF-8") from None
    except json.JSONDecodeError as e:
        raise BodyError(f"the body is not JSON: {e}") from None
    except RecursionError:
        raise BodyError(f"the body is nested more than {DEPTH} levels deep; send a flatter one") from None
    _check(value, ())
    return value


def name(path: Path) -> str:
    """Write the path as a message does: `messages[0].content`."""
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif re.fullmatch(r"[\w-]+", part):
            parts.append(f".{part}")
        else:
            parts.append(f"[{shown(part)}]")
    return "".join(parts).lstrip(".")


def shown(value: Any) -> str:
    """Write the beginning of a value, in JSON; controls and halves of characters as escapes."""
    text = json.dumps(value, ensure_ascii=isinstance(value, str) and HALF.search(value) is not None, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    keys = [key for key, _ in pairs]
    twice = _Twice(value)
    twice.key = next(key for number, key in enumerate(keys) if key in keys[:number])
    return twice


def _integer(text: str) -> int | float:
    """Read an integer; as infinity, which `_check` refuses, where Python would not read it at all."""
    return int(text) if len(text) <= DIGITS else math.inf


def _check(value: Any, path: Path) -> None:
    """Raise BodyError at the first fault."""
    if isinstance(value, str):
        if half := HALF.search(value):
            what = f"half a character (the surrogate \\u{ord(half[0]):04x} alone)"
            raise BodyError(f"'{name(path)}' holds {what}; send whole ones", path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BodyError(f"'{name(path)}' is no finite number, or one with too many digits; send another", path)
    elif isinstance(value, dict | list):
        if len(path) >= DEPTH:
            raise BodyError(f"'{name(path[:1])}' is nested more than {DEPTH} levels deep; send it flatter", path[:1])
        if isinstance(value, _Twice):
            inner = (*path, value.key)
            raise BodyError(f"'{name(inner)}' stands twice in the body; send it once", inner)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str) and HALF.search(key):
                raise BodyError(f"the key '{name((*path, key))}' holds half a character; send whole ones", (*path, key))
            if isinstance(item, str | float | dict | list):
                _check(item, (*path, key))
