"""Parts of a file that can be read side by side: stretches of lines, row groups, or the whole of what has no parts."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tasks.ingestion import arrow_files, json_files
from tasks.ingestion.files import readable, rows_of
from tasks.ingestion.lines import Keep, Line, Reject, decoded
from tasks.ingestion.spool import Spooled, spool

STRETCH = 16 << 20
"""Bytes of a stretch of lines, to the end of its last line. It changes no result."""


@dataclass(frozen=True)
class Part:
    """One part of a file."""

    path: Path
    """The file, or a folder that `save_to_disk` wrote."""
    name: str
    """How rejects name it."""
    kind: str
    """`lines`, `group` or `whole`."""
    before: int = 0
    """Lines, or rows, before this part."""
    start: int = 0
    """Of lines the first byte, of a row group its number."""
    size: int = 0
    """Of lines their bytes."""


def divide(path: Path, name: str) -> list[Part]:
    """Divide a file into parts. What is compressed, is an array or has quoted line ends is one.

    Raises:
        DataError: it cannot be read.
    """
    if path.suffix == ".parquet" and path.is_file():
        counts = arrow_files.row_groups(path, name)
        befores = [0, *accumulate(counts)]
        return [Part(path, name, "group", befores[i], i) for i in range(len(counts))] or [Part(path, name, "whole")]
    if path.suffix != ".jsonl" or not path.is_file():
        return [Part(path, name, "whole")]
    parts = []
    before = start = 0
    with readable(name), path.open("rb") as f:
        while block := f.read(STRETCH):
            block += f.readline()
            parts.append(Part(path, name, "lines", before, start, len(block)))
            before += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
            start += len(block)
    return parts


def rows(part: Part) -> Iterator[Line | Reject]:
    """Yield the rows of a part, numbered as in the whole file. Raises DataError."""
    if part.kind == "group":
        with readable(part.name):
            yield from arrow_files.parquet_rows(part.path, part.name, [part.start], part.before)
    elif part.kind == "lines":
        with readable(part.name), part.path.open("rb") as f:
            f.seek(part.start)
            raws = f.read(part.size).splitlines(keepends=True)
            yield from json_files.objects(decoded(raws, part.name, part.before + 1), part.name)
    else:
        yield from rows_of(part.path, part.name)


def spool_part(part: Part, stem: Path, keep: Keep) -> Spooled:
    """Read a part into chunks, in whatever process. Raises DataError."""
    return spool(rows(part), stem, keep)
