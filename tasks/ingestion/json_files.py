"""Rows of JSON: an object a line (`.jsonl`), or one array of objects (`.json`)."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tasks.ingestion.json_window import Window
from tasks.ingestion.lines import Line, Reject, opened, text_lines
from tasks.ingestion.values import SHOWN, BadRow, plain
from tasks.stage.errors import DataError


def lines(path: Path, name: str) -> Iterator[Line | Reject]:
    """Yield the object of each line. Args: name: how rejects name the file."""
    return objects(text_lines(path, name), name)


def objects(texts: Iterable[tuple[int, str] | Reject], name: str) -> Iterator[Line | Reject]:
    """Yield the object of each of these lines. Args: name: how rejects name the file."""
    for item in texts:
        if isinstance(item, Reject):
            yield item
            continue
        number, text = item
        try:
            yield Line(number, _object(text))
        except BadRow as e:
            yield Reject(name, number, str(e), text.strip()[:SHOWN])


def array(path: Path, name: str) -> Iterator[Line | Reject]:
    """Yield the objects of an array, each with the line that it begins on; or those of lines, as some name them so.

    An item that is no row costs itself alone. Where the array itself is broken, nothing behind is a row.

    Raises:
        DataError: no UTF-8, or neither an array nor one object a line.
    """
    with opened(path) as f:
        window = Window(f, name)
        first = window.peek()
        if first not in ("[", ""):
            if not _is_object(window.line()):
                raise DataError(
                    f"{name}: neither an array of objects nor one object a line; write its rows as `[{{…}}, {{…}}]`"
                )
            yield from lines(path, name)
        elif first:
            yield from _items(window, name)


def _items(window: "Window", name: str) -> Iterator[Line | Reject]:
    """Yield the objects of an array at whose bracket the window is. Raises DataError."""
    window.take(1)
    while window.peek() != "]":
        number = window.number
        item = window.value()
        try:
            row = _object(item)
        except BadRow as e:
            yield Reject(name, number, str(e), item[:SHOWN])
        else:
            yield Line(number, row)
        if window.peek() == ",":
            window.take(1)
            window.peek()
        elif window.peek() != "]":
            raise DataError(f"{name}:{window.number}: no comma or bracket behind an item; is the file cut off?")
    window.take(1)
    number = window.number
    if window.peek():
        raise DataError(f"{name}:{number}: there is text behind the array; remove it")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _object(text: str) -> dict[str, Any]:
    """Read one line of JSON. Raises BadRow for what RFC 8259 does not know or leaves open, where Python is lenient."""

    def no_number(constant: str) -> NoReturn:
        raise BadRow(f"{constant} is no number and not JSON; leave the key out or write null")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise BadRow(f"the key '{twice}' stands twice in one object; which of them is meant?")
        return row

    try:
        row = json.loads(text, parse_constant=no_number, object_pairs_hook=unique)
    except BadRow:
        raise
    except json.JSONDecodeError as e:
        raise BadRow(f"not JSON ({e}); is the line cut off?") from None
    except ValueError as e:  # Python reads whole numbers of up to 4300 digits
        raise BadRow(f"a number is too long ({e})") from None
    except RecursionError:
        raise BadRow("lists or objects are nested too deep") from None
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return {plain("a key", key): plain(key, value) for key, value in row.items()}
