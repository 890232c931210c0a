"""Values of a row: what JSON and Arrow can hold as it is, what becomes text, what is refused, and columns of one kind.

A value that cannot be written, or that a later stage would trip over, is found here, where file and line are known.
"""

import datetime
import decimal
import math
import uuid
from typing import Any

DEEPEST = 64
"""Lists and mappings inside each other; rows of real sets have three or four."""
LONGEST = 14_000
"""Bits of a whole number; Python writes no more than 4300 digits."""
SHOWN = 300
"""Characters of a text that a reject repeats."""

Kind = str | tuple[str, Any]
"""A scalar's kind by name; of a list the kind of its items, of a mapping the kind of each key."""


class BadRow(ValueError):
    """A row that cannot be used; the message is the reason."""


def plain(name: str, value: Any, depth: int = 0) -> Any:
    """Write the value in JSON's terms: dates in ISO 8601, decimals and UUIDs as text, tuples as lists.

    Args:
        name: path of the value in its row, for the message.
        value: as a reader gave it.
        depth: lists and mappings around it.

    Raises:
        BadRow: bytes or another object, a number that is none or too long, half of a surrogate pair, or nesting beyond
            `DEEPEST`.
    """
    if isinstance(value, int) and value.bit_length() > LONGEST:
        raise BadRow(f"'{name}' is a whole number of more than {LONGEST} bits; write it as text")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _utf8(name, value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRow(f"'{name}' is {value}, which is no number; leave it out or write null")
        return value
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta | uuid.UUID):
        return str(value)
    if depth == DEEPEST and isinstance(value, list | tuple | dict):
        raise BadRow(f"'{name[:40]}…' is nested more than {DEEPEST} deep")
    if isinstance(value, list | tuple):
        return [plain(f"{name}[{i}]", inner, depth + 1) for i, inner in enumerate(value)]
    if isinstance(value, dict):
        return {_utf8(name, str(key)): plain(f"{name}.{key}", inner, depth + 1) for key, inner in value.items()}
    raise BadRow(f"'{name}' is {type(value).__name__}, which JSON cannot hold; write it as text, or do not map it")


def _utf8(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as e:
        half = f"U+{ord(value[e.start]):04X}"
        shown = printable(name)
        raise BadRow(f"'{shown}' holds half of a surrogate pair ({half}), no UTF-8; was an emoji cut in two?") from None
    return value


def text(name: str, value: Any) -> str:
    """Read a plain value that is to be learnt or asked: text that is not blank, or a number. Raises BadRow."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadRow(f"'{name}' is {type(value).__name__}, not text")
    if not value.strip():
        raise BadRow(f"'{name}' is empty")
    return value


def printable(value: Any, depth: int = 0) -> Any:
    """Write anything at all in a form that JSON can hold, for people to look at. Loses what `plain` refuses."""
    if value is None or (isinstance(value, int) and value.bit_length() <= LONGEST):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", errors="replace").decode()
    if depth < DEEPEST and isinstance(value, list | tuple):
        return [printable(inner, depth + 1) for inner in value]
    if depth < DEEPEST and isinstance(value, dict):
        return {printable(str(key)): printable(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple | dict | int):
        return "…"
    return printable(str(value)[:SHOWN])


def kind(name: str, value: Any) -> Kind | None:
    """Name the kind of a plain value, as Arrow tells them apart; None for null.

    Raises:
        BadRow: a whole number of more than 64 bits.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise BadRow(f"'{name}' is a whole number of more than 64 bits; write it as text")
        return "a whole number" if abs(value) <= 2**53 else "a whole number beyond 2**53"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, list):
        inner: Kind | None = None
        for i, item in enumerate(value):
            inner = join(f"{name}[{i}]", inner, kind(f"{name}[{i}]", item), f"'{name}[0]'")
        return "a list", inner
    if isinstance(value, dict):
        return "a mapping", {key: kind(f"{name}.{key}", item) for key, item in value.items()}
    return "text"


def join(name: str, before: Kind | None, now: Kind | None, where: str) -> Kind | None:
    """Find the kind that holds both.

    Args:
        name: path of the value, for the message.
        before: kind so far.
        now: kind of the next value.
        where: place of the value that `before` comes from, for the message.

    Raises:
        BadRow: there is none; Arrow, which trainers keep their rows in, has one kind a column.
    """
    if before is None or now is None or before == now:
        return now if before is None else before
    names = {before if isinstance(before, str) else before[0], now if isinstance(now, str) else now[0]}
    if names == {"a whole number", "a whole number beyond 2**53"}:
        return "a whole number beyond 2**53"
    if names == {"a whole number", "a number"}:
        return "a number"
    if len(names) == 1 and isinstance(before, tuple) and isinstance(now, tuple):
        if before[0] == "a list":
            return "a list", join(f"{name}[…]", before[1], now[1], where)
        both = {**before[1], **now[1]}
        return "a mapping", {key: join(f"{name}.{key}", before[1].get(key), now[1].get(key), where) for key in both}
    first, second = (k if isinstance(k, str) else k[0] for k in (before, now))
    raise BadRow(f"'{name}' is {second}, but {first} in {where}; a column holds values of one kind")


class Columns:
    """The kind of each column of a set, over all of its rows."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind | None] = {}
        self._first: dict[str, str] = {}

    def add(self, row: dict[str, Any], where: str) -> None:
        """Hold a row, which stands at `where` (`file:line`), against the rows before it.

        Raises:
            BadRow: a column is of another kind than in the row before it, or a number of more than 64 bits. Such a
                row leaves no trace.
        """
        joined = {
            name: join(name, self._kinds.get(name), kind(name, value), self._first.get(name, where))
            for name, value in row.items()
        }
        self._kinds.update(joined)
        for name, found in joined.items():
            if found is not None:
                self._first.setdefault(name, where)

    def found(self) -> dict[str, Kind | None]:
        """Return each column's kind."""
        return dict(self._kinds)

    def join(self, later: "Columns") -> None:
        """Hold the columns of later rows against these.

        Raises:
            BadRow: a column is of another kind. Nothing is changed then.
        """
        joined = {
            name: join(name, self._kinds.get(name), found, self._first.get(name, ""))
            for name, found in later._kinds.items()
        }
        self._kinds.update(joined)
        self._first = {**later._first, **self._first}
