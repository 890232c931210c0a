"""Rows of the sources on their way to the sets: in chunks on the disk, so that memory holds one row at a time.

A chunk is a file of pickles, one a row, which only this stage writes and reads, in its own temporary folder.
"""

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.ingestion.lines import Keep, Line, Reject
from tasks.stage.errors import DataError

CHUNK_BYTES, CHUNK_ROWS = 4 << 20, 2_000
"""Size from which a chunk is full, and rows it has at most. Neither changes a result."""


@dataclass(frozen=True)
class Chunk:
    """A file of rows."""

    path: Path
    """Where it lies."""
    rows: int
    """How many rows it holds."""


@dataclass
class Spooled:
    """What was read of a source, or of a part of one, in order."""

    chunks: list[Chunk] = field(default_factory=list)
    """Rows that could be read."""
    columns: set[str] = field(default_factory=set)
    """Columns of all of these rows."""
    rejects: list[Reject] = field(default_factory=list)
    """Lines that could not be read."""

    def add(self, more: "Spooled") -> None:
        """Append the next part of the source."""
        self.chunks += more.chunks
        self.columns |= more.columns
        self.rejects += more.rejects


@dataclass
class SpooledTable:
    """One source, read into chunks."""

    file: str
    """What rejects name as their file."""
    read: Spooled
    """Its rows."""
    media: tuple[Path, ...]
    """Folders of the files that rows name."""
    origin: dict[str, Any]
    """What identifies the data: kind, revision or SHA-256, options. Goes to the report."""

    @property
    def count(self) -> int:
        """Count the rows that could be read."""
        return sum(chunk.rows for chunk in self.read.chunks)

    def lines(self) -> Iterator[Line]:
        """Yield the rows that could be read."""
        for chunk in self.read.chunks:
            yield from rows_of(chunk)

    def check(self, rejects: list[Reject], max_bad_share: float, params: Path) -> None:
        """Stop when too much of the source is bad.

        Args:
            rejects: rows that could be read but not used.
            max_bad_share: share of all rows, 0 to 1, up to which bad ones are left out and no more is said.
            params: the recipe file, for the message.

        Raises:
            DataError: naming the first bad rows by file and line.
        """
        bad = sorted([*self.read.rejects, *rejects], key=lambda r: r.line)
        total = self.count + len(self.read.rejects)
        if len(bad) <= max_bad_share * total:
            return
        shown = "".join(f"\n  {r.file}:{r.line}: {r.reason}" for r in bad[:5])
        more = f"\n  … and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{self.file}: {len(bad)} of {total} rows are bad, over max_bad_share {max_bad_share:g} of {params}; "
            f"mend the rows or raise it:{shown}{more}"
        )


def spool(rows: Iterable[Line | Reject], stem: Path, keep: Keep) -> Spooled:
    """Write rows to chunks.

    Args:
        rows: of a source, or of a part of one.
        stem: beginning of the chunks' paths: `folder/name` gives `folder/name-0`, `folder/name-1`, …
        keep: what is done with each row before it is written.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    spooled = Spooled()
    lines = _lines(rows, spooled.rejects)
    while True:
        path = stem.with_name(f"{stem.name}-{len(spooled.chunks)}")
        written = 0
        with path.open("wb") as f:
            while written < CHUNK_ROWS and f.tell() < CHUNK_BYTES:
                line = next(lines, None)
                if line is None:
                    break
                line = keep(line)
                spooled.columns.update(line.row)
                pickle.dump((line.number, line.row), f, pickle.HIGHEST_PROTOCOL)
                written += 1
        if not written:
            path.unlink()
            return spooled
        spooled.chunks.append(Chunk(path, written))


def _lines(rows: Iterable[Line | Reject], rejects: list[Reject]) -> Iterator[Line]:
    for item in rows:
        if isinstance(item, Line):
            yield item
        else:
            rejects.append(item)


def rows_of(chunk: Chunk) -> Iterator[Line]:
    """Yield the rows of a chunk."""
    with chunk.path.open("rb") as f:
        for _ in range(chunk.rows):
            number, row = pickle.load(f)
            yield Line(number, row)
