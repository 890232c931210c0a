"""A row and where it stands, a row that cannot be used, a source of both, and the lines of a file."""

import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tasks.ingestion.values import SHOWN

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""Second suffixes of compressed files, to what they are compressed by."""


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


@dataclass
class Stream:
    """One source that is about to be read, row by row."""

    file: str
    """What rejects name as their file."""
    rows: Iterator[Line | Reject]
    """Its rows. Taking them may raise DataError."""
    origin: Callable[[], dict[str, Any]]
    """What identifies the data; to be asked for once the rows have been taken."""
    media: tuple[Path, ...] = (Path(),)
    """Folders of the files that rows name."""
    path: Path | None = None
    """The file or folder that the rows are from; None where they are from elsewhere."""


def opened(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, decompressed where its last suffix is one of `COMPRESSED`.

    Raises:
        OSError: it cannot be read. A file that is not compressed as its suffix says raises OSError, EOFError or
            zlib.error only when it is read from.
    """
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(path, "rb"))
    if path.suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield lines with their ends: `\\n`, `\\r\\n` or `\\r` alone. U+2028 and its like end none."""
    with opened(path) as f:
        for raw in f:
            yield from raw.splitlines(keepends=True)


def text_lines(path: Path, name: str) -> Iterator[tuple[int, str] | Reject]:
    """Yield decoded lines that are not blank, with their numbers; a line that is not UTF-8 is a reject."""
    return decoded(raw_lines(path), name, 1)


def decoded(raws: Iterable[bytes], name: str, first: int) -> Iterator[tuple[int, str] | Reject]:
    """Yield lines of a file as `text_lines`, from those that begin with the line of number `first`."""
    for number, raw in enumerate(raws, first):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            shown = raw.decode("utf-8", errors="replace").strip()[:SHOWN]
            yield Reject(name, number, f"not UTF-8 at byte {e.start + 1} of the line", shown)
            continue
        if text.strip():
            yield number, text
