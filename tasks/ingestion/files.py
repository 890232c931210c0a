"""Files to rows, one line at a time, so that one bad line costs one row and is named by its number."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tasks.ingestion.values import SHOWN, BadRow, plain
from tasks.stage.errors import DataError

BATCH, BATCH_OF_BYTES = 65_536, 64
"""Rows of a Parquet file that are read at once, and where they hold pictures."""
BUFFER = 1 << 20
"""Bytes of a column that are read at once; without a bound a whole row group is, which may be the whole file."""


@dataclass(frozen=True)
class Line:
    """One row and where it stands."""

    number: int
    """Line of a text file, the last one of a CSV record; of anything else the row's number, from 1."""
    row: dict[str, Any]
    """Columns to values."""


Keep = Callable[[Line], Line]
"""What is done with each row before the next is read: bytes in it go where they cost no memory."""


def as_is(line: Line) -> Line:
    """Keep a row as it is."""
    return line


@dataclass(frozen=True)
class Reject:
    """One row that cannot be used."""

    file: str
    """File, or the source's name."""
    line: int
    """Line number, from 1."""
    reason: str
    """Why, in one sentence."""
    row: Any
    """The row, or the start of the line."""


def read_file(path: Path, name: str, keep: Keep = as_is) -> tuple[list[Line], list[Reject]]:
    """Read a file by its suffix.

    Args:
        path: the file.
        name: how rejects name it.
        keep: what is done with each row before the next is read.

    Raises:
        DataError: a suffix that no reader knows, or a file that is not what its suffix says or may not be read.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".txt": _txt, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DataError(f"{name}: unknown kind of file {path.suffix!r}; known: {', '.join(readers)}")
    lines: list[Line] = []
    rejects: list[Reject] = []
    try:
        for item in readers[path.suffix](path, name):
            if isinstance(item, Line):
                lines.append(keep(item))
            else:
                rejects.append(item)
    except OSError as e:
        raise DataError(f"{name}: cannot be read ({e.strerror or e})") from None
    return lines, rejects


def _text_lines(path: Path, name: str) -> Iterator[tuple[int, str] | Reject]:
    """Yield decoded lines that are not blank, with their numbers; a line that is not UTF-8 is a reject."""
    for number, raw in enumerate(_raw_lines(path), 1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            shown = raw.decode("utf-8", errors="replace").strip()[:SHOWN]
            yield Reject(name, number, f"not UTF-8 at byte {e.start + 1} of the line", shown)
            continue
        if text.strip():
            yield number, text


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Yield lines with their ends: `\\n`, `\\r\\n` or `\\r` alone. U+2028 and its like end none."""
    with path.open("rb") as f:
        for raw in f:
            yield from raw.splitlines(keepends=True)


def _jsonl(path: Path, name: str) -> Iterator[Line | Reject]:
    for item in _text_lines(path, name):
        if isinstance(item, Reject):
            yield item
            continue
        number, text = item
        try:
            yield Line(number, _object(text))
        except BadRow as e:
            yield Reject(name, number, str(e), text.strip()[:SHOWN])


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


def _txt(path: Path, name: str) -> Iterator[Line | Reject]:
    for item in _text_lines(path, name):
        yield item if isinstance(item, Reject) else Line(item[0], {"text": item[1].strip()})


_CELL = r'(?:"[^"]*(?:""[^"]*)*"|[^",\r\n]*)'
_WHOLE = re.compile(rf"{_CELL}(?:,{_CELL})*\r?\n?")
"""A record of RFC 4180: a cell with quotes inside is in quotes, and they are doubled."""
_OPEN = re.compile(rf'(?:{_CELL},)*"(?![,\r\n]|\Z)[^"]*(?:""[^"]*)*')
"""A line at whose end a quoted cell is still open, and that does not look like the end of one."""


def _csv(path: Path, name: str) -> Iterator[Line | Reject]:
    csv.field_size_limit(sys.maxsize)  # Python's limit of 131,072 characters guards readers of lines, not of files
    raws = enumerate(_raw_lines(path))
    texts = [raw.decode("utf-8-sig" if i == 0 else "utf-8", errors="surrogateescape") for i, raw in raws]
    at = next((i for i, text in enumerate(texts) if text.strip()), len(texts))
    if at == len(texts):
        return
    try:
        columns, after = _record(texts, at)
    except csv.Error as e:
        raise DataError(f"{name}:{at + 1}: the header is not CSV ({e})") from None
    if any(_not_utf8(text) for text in texts[at:after]):
        raise DataError(f"{name}:{at + 1}: the header is not UTF-8; write the file anew in that encoding")
    at = after
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise DataError(f"{name}: the header names {', '.join(map(repr, twice))} more than once; rename one of them")
    while at < len(texts):
        first = at
        why = ""
        if not texts[at].strip():
            at += 1
            continue
        try:
            cells, at = _record(texts, first)
        except csv.Error as e:
            why = f"not CSV ({e}); quote fields that hold quotes or line ends, and double the quotes"
        else:
            if len(cells) != len(columns):
                why = f"has {len(cells)} fields, another number of fields than the header ({len(columns)})"
        if why:
            at = _resume(texts, first, len(columns))
            yield Reject(name, first + 1, why, _shown(texts[first]))
            for i in range(first + 1, at):
                yield Reject(name, i + 1, f"inside the quotes that line {first + 1} opens", _shown(texts[i]))
            continue
        bad = next((i for i in range(first, at) if _not_utf8(texts[i])), None)
        if bad is None:
            yield Line(at, dict(zip(columns, cells, strict=True)))
        else:
            yield Reject(name, bad + 1, f"not UTF-8 at byte {_not_utf8(texts[bad])} of the line", _shown(texts[bad]))


def _record(texts: list[str], start: int) -> tuple[list[str], int]:
    """Read the record that begins at a line, and find the line behind it. Raises csv.Error."""
    reader = csv.reader((texts[i] for i in range(start, len(texts))), strict=True)
    cells = next(reader)
    return cells, start + reader.line_num


def _resume(texts: list[str], broken: int, columns: int) -> int:
    """Find the line to go on at behind a broken record.

    One with an even number of quotes ends with its line. With an odd number either a quote is missing, and the lines
    that follow are records, or the record goes on to the next line with an odd number. It is the former where there
    is no such line, or that line begins a record and most up to it are whole ones. In doubt it is the latter: half an
    answer must not be taken for a row.
    """
    if texts[broken].count('"') % 2 == 0:
        return broken + 1
    odd = next((i for i in range(broken + 1, len(texts)) if texts[i].count('"') % 2), None)
    if odd is None:
        return broken + 1
    between = [text for text in texts[broken + 1 : odd] if text.strip()]
    whole = sum(bool(_WHOLE.fullmatch(text)) and len(next(csv.reader([text]))) == columns for text in between)
    return broken + 1 if _OPEN.fullmatch(texts[odd]) and 2 * whole >= len(between) else odd + 1


def _not_utf8(text: str) -> int | None:
    """Find the number of the first byte, from 1, that was no UTF-8; None for good text."""
    escaped = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    return None if escaped is None else len(text[:escaped].encode()) + 1


def _shown(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode().strip()[:SHOWN]


def _parquet(path: Path, name: str) -> Iterator[Line | Reject]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        file = parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        names = file.schema_arrow.names
        if twice := sorted({column for column in names if names.count(column) > 1}):
            raise DataError(f"{name}: more than one column is called {', '.join(map(repr, twice))}; rename one of them")
        for batch in file.iter_batches(BATCH_OF_BYTES if _holds_bytes(file.schema_arrow) else BATCH):
            for item in _batch_rows(batch, name, number):
                number += 1
                yield item
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{name}: not a readable Parquet file ({e}); is it cut off?") from None


def _holds_bytes(schema: Any) -> bool:
    """Whether a Parquet file has columns of bytes, bare or inside others, such as `{bytes, path}`."""
    return any("binary" in str(field.type) for field in schema)


def _batch_rows(batch: Any, name: str, before: int) -> Iterator[Line | Reject]:
    """Yield a batch's rows as Python's values. Parquet can hold others: years beyond 9999, text that is no UTF-8."""
    import pyarrow

    unreadable = (ArithmeticError, KeyError, TypeError, ValueError, pyarrow.ArrowException)
    try:
        rows = batch.to_pylist(maps_as_pydicts="strict")
    except unreadable:
        rows = None
    if rows is not None:
        yield from (Line(before + i, row) for i, row in enumerate(rows, 1))
        return
    for i in range(batch.num_rows):
        row: dict[str, Any] = {}
        column = ""
        try:
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                row[column] = values[i].as_py(maps_as_pydicts="strict")
        except unreadable as e:
            yield Reject(name, before + i + 1, f"the value of '{column}' cannot be read ({e})", None)
        else:
            yield Line(before + i + 1, row)
