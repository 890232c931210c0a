"""Rows of CSV and TSV files with a header: a broken record costs one row, and those behind it are rows again."""

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.ingestion.lines import Line, Reject, raw_lines
from tasks.ingestion.values import SHOWN
from tasks.stage.errors import DataError

AHEAD = 1_000_000
"""Lines of one record at most, and lines ahead in which the end of a broken one is looked for."""
OTHERS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
"""Signs that may stand between the columns of a file whose suffix says otherwise."""
_TRIM = 4_096
"""Lines that are done with and still held, at most."""


@dataclass(frozen=True)
class Dialect:
    """What parts the cells of a record, and the patterns that follow from it."""

    delimiter: str
    """One character."""
    whole: re.Pattern[str]
    """A record of RFC 4180: a cell with quotes inside is in quotes, and they are doubled."""
    open: re.Pattern[str]
    """A line at whose end a quoted cell is still open, and that does not look like the end of one."""


def _dialect(delimiter: str) -> Dialect:
    cell = rf'(?:"[^"]*(?:""[^"]*)*"|[^"{delimiter}\r\n]*)'
    whole = re.compile(rf"{cell}(?:{delimiter}{cell})*\r?\n?")
    return Dialect(delimiter, whole, re.compile(rf'(?:{cell}{delimiter})*"(?![{delimiter}\r\n]|\Z)[^"]*(?:""[^"]*)*'))


COMMAS, TABS = _dialect(","), _dialect("\t")


class _Lines:
    """The lines of a file from one of them on, by their numbers from 0; read as they are asked for."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = iter(texts)
        self._held: list[str] = []
        self._before = 0

    def has(self, at: int) -> bool:
        """Tell whether the file has this line."""
        while at >= self._before + len(self._held):
            text = next(self._texts, None)
            if text is None:
                return False
            self._held.append(text)
        return True

    def __getitem__(self, at: int) -> str:
        if not self.has(at):
            raise IndexError(at)
        return self._held[at - self._before]

    def following(self, start: int) -> Iterator[tuple[int, str]]:
        """Yield lines from one on, with their numbers, `AHEAD` at most."""
        at = start
        while at < start + AHEAD and self.has(at):
            yield at, self[at]
            at += 1

    def forget(self, at: int) -> None:
        """Let go of the lines before one."""
        if at - self._before >= _TRIM:
            del self._held[: at - self._before]
            self._before = at


def records(path: Path, name: str, dialect: Dialect) -> Iterator[Line | Reject]:
    """Yield the records behind the header, each with the number of its last line.

    Args:
        path: the file.
        name: how rejects name it.
        dialect: `COMMAS` or `TABS`.

    Raises:
        DataError: the header cannot be read, or names a column twice.
    """
    csv.field_size_limit(sys.maxsize)  # Python's limit of 131,072 characters guards readers of lines, not of files
    raws = enumerate(raw_lines(path))
    texts = _Lines(raw.decode("utf-8-sig" if i == 0 else "utf-8", errors="surrogateescape") for i, raw in raws)
    at = 0
    while texts.has(at) and not texts[at].strip():
        at += 1
    if not texts.has(at):
        return
    try:
        columns, after = _record(texts, at, dialect)
    except csv.Error as e:
        raise DataError(f"{name}:{at + 1}: the header is not CSV ({e})") from None
    if any(_not_utf8(texts[i]) for i in range(at, after)):
        raise DataError(f"{name}:{at + 1}: the header is not UTF-8; write the file anew in that encoding")
    at = after
    if len(columns) == 1 and (said := next((words for sign, words in OTHERS.items() if sign in columns[0]), None)):
        expected = "commas" if dialect.delimiter == "," else "tabs"
        raise DataError(
            f"{name}: {said} stand between its columns ({columns[0]!r}), where {expected} are expected; write it as "
            f".csv with commas and quotes, or as .tsv with tabs. If it has one column, take the {said} out of its name"
        )
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise DataError(f"{name}: the header names {', '.join(map(repr, twice))} more than once; rename one of them")
    while texts.has(at):
        texts.forget(at)
        first = at
        why = ""
        if not texts[at].strip():
            at += 1
            continue
        try:
            cells, at = _record(texts, first, dialect)
        except csv.Error as e:
            why = f"not CSV ({e}); quote fields that hold quotes or line ends, and double the quotes"
        else:
            if len(cells) != len(columns):
                why = f"has {len(cells)} fields, another number of fields than the header ({len(columns)})"
        if why:
            at = _resume(texts, first, len(columns), dialect)
            yield Reject(name, first + 1, why, _shown(texts[first]))
            for i in range(first + 1, at):
                yield Reject(name, i + 1, f"inside the quotes that line {first + 1} opens", _shown(texts[i]))
            continue
        bad = next((i for i in range(first, at) if _not_utf8(texts[i])), None)
        if bad is None:
            yield Line(at, dict(zip(columns, cells, strict=True)))
        else:
            yield Reject(name, bad + 1, f"not UTF-8 at byte {_not_utf8(texts[bad])} of the line", _shown(texts[bad]))


def _record(texts: _Lines, start: int, dialect: Dialect) -> tuple[list[str], int]:
    """Read the record that begins at a line, and find the line behind it. Raises csv.Error."""
    following = (text for _, text in texts.following(start))
    reader = csv.reader(following, strict=True, delimiter=dialect.delimiter)
    cells = next(reader)
    return cells, start + reader.line_num


def _resume(texts: _Lines, broken: int, columns: int, dialect: Dialect) -> int:
    """Find the line to go on at behind a broken record.

    One with an even number of quotes ends with its line. With an odd number either a quote is missing, and the lines
    that follow are records, or the record goes on to the next line with an odd number. It is the former where there
    is no such line, or that line begins a record and most up to it are whole ones. In doubt it is the latter: half an
    answer must not be taken for a row.
    """
    if texts[broken].count('"') % 2 == 0:
        return broken + 1
    odd = next((i for i, text in texts.following(broken + 1) if text.count('"') % 2), None)
    if odd is None:
        return broken + 1
    between = [texts[i] for i in range(broken + 1, odd) if texts[i].strip()]
    whole = sum(
        bool(dialect.whole.fullmatch(text)) and len(next(csv.reader([text], delimiter=dialect.delimiter))) == columns
        for text in between
    )
    return broken + 1 if dialect.open.fullmatch(texts[odd]) and 2 * whole >= len(between) else odd + 1


def _not_utf8(text: str) -> int | None:
    """Find the number of the first byte, from 1, that was no UTF-8; None for good text."""
    escaped = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    return None if escaped is None else len(text[:escaped].encode()) + 1


def _shown(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode().strip()[:SHOWN]
