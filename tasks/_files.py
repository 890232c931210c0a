"""Files to rows, one line at a time, so that one bad line costs one row and is named by its number."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks._errors import DataError

SHOWN = 300
"""Characters of an unreadable line that its reject repeats."""


@dataclass(frozen=True)
class Line:
    """One row and where it stands."""

    number: int
    """Line of a text file; of anything else the row's number, from 1."""
    row: dict[str, Any]
    """Columns to values."""


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


def read_file(path: Path, name: str) -> tuple[list[Line], list[Reject]]:
    """Read a file by its suffix.

    Args:
        path: the file.
        name: how rejects name it.

    Raises:
        DataError: a suffix that no reader knows, or a file that is not what its suffix says.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".txt": _txt, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DataError(f"{name}: unknown kind of file {path.suffix!r}; known: {', '.join(readers)}")
    lines: list[Line] = []
    rejects: list[Reject] = []
    for item in readers[path.suffix](path, name):
        if isinstance(item, Line):
            lines.append(item)
        else:
            rejects.append(item)
    return lines, rejects


def _text_lines(path: Path, name: str) -> Iterator[tuple[int, str] | Reject]:
    """Decoded lines that are not blank, with their numbers; a line that is not UTF-8 is a reject."""
    with path.open("rb") as f:
        for number, raw in enumerate(f, 1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as e:
                shown = raw.decode("utf-8", errors="replace").strip()[:SHOWN]
                yield Reject(name, number, f"not UTF-8 at byte {e.start + 1} of the line", shown)
                continue
            if text.strip():
                yield number, text


def _jsonl(path: Path, name: str) -> Iterator[Line | Reject]:
    for item in _text_lines(path, name):
        if isinstance(item, Reject):
            yield item
            continue
        number, text = item
        shown = text.strip()[:SHOWN]
        try:
            row = json.loads(text)
        except ValueError as e:
            yield Reject(name, number, f"not JSON ({e}); is the line cut off?", shown)
            continue
        yield Line(number, row) if isinstance(row, dict) else Reject(name, number, "not a JSON object", shown)


def _txt(path: Path, name: str) -> Iterator[Line | Reject]:
    for item in _text_lines(path, name):
        yield item if isinstance(item, Reject) else Line(item[0], {"text": item[1].strip()})


def _csv(path: Path, name: str) -> Iterator[Line | Reject]:
    rejects: list[Reject] = []
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        for item in _text_lines(path, name):
            if isinstance(item, Reject):
                rejects.append(item)
            else:
                at, text = item
                yield text

    try:
        for row in csv.DictReader(lines(), strict=True):
            if None in row or None in row.values():
                yield Reject(name, at, "has another number of fields than the header", str(row)[:SHOWN])
            else:
                yield Line(at, dict(row))
    except csv.Error as e:
        raise DataError(f"{name}:{at}: not CSV ({e}); quote fields that hold quotes or line ends") from None
    yield from rejects


def _parquet(path: Path, name: str) -> Iterator[Line | Reject]:
    import pyarrow
    from pyarrow import parquet

    try:
        batches = parquet.ParquetFile(path).iter_batches()
        number = 0
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield Line(number, row)
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{name}: not a readable Parquet file ({e}); is it cut off?") from None
