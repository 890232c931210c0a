"""What was made of each document, kept from run to run: an unchanged one is neither read nor cut again.

A document is unchanged when its stamp is (for a file: size, times of its last change, device and inode) and when all
that decides its passages and their words is: the settings, the code of this folder, and the libraries. The cache lies
outside the artifact, in `.polm/retrieval/`, is safe to delete, and changes no byte of the artifact. A row of the table,
shortened:

    source   name      stamp         version  seen      record              pieces                     words
    manuals  pump.pdf  81920-17…-4…  5c1f…    1753999…  {"sha256": "…", …}  {"title": [["page 3"]], …}  numbers

Words are kept as their numbers in a second table, which only grows.
"""

import functools
import hashlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.retrieval.postings import Postings
from tasks.stage.artifact import STATE, sha256

FOLDER = STATE / "retrieval"
_LIBRARIES = ("docutils", "lxml", "markdown-it-py", "pypdf", "python-docx")
_SETTLED = 2_000_000_000
"""Nanoseconds after a file's last change from which its times can be trusted: clocks of file systems tick slowly."""
_COLUMNS = "source TEXT, name TEXT, stamp TEXT, version TEXT, seen INTEGER, record TEXT, pieces TEXT, words BLOB"
_LISTS = ("id", "title", "start", "end", "text")
_VOCABULARY = "SELECT word FROM words ORDER BY number"
_PAGE, _MAPPED = 65_536, 2**40
"""Bytes of a page of the table's file, since a document's passages are read whole, and of the file that are mapped."""
_EVERY = 500
"""Documents after which what was made is kept, should the run be killed."""


@dataclass(frozen=True)
class Record:
    """What was made of one document, or why nothing was."""

    format: str
    """Its format; empty where even that is unknown."""
    sha256: str
    """SHA-256 of its bytes; empty for one that could not be read."""
    bytes: int
    """Their number."""
    characters: int
    """Length of its extracted text."""
    text: str
    """SHA-256 of its extracted text, by which duplicates are found."""
    chunks: int
    """Number of its passages."""
    reason: str
    """Why there is none, in the few words of `Unreadable`; empty for a document that was read."""
    detail: str
    """What is known of it besides."""


@dataclass(frozen=True)
class Pieces:
    """The passages of one document, by columns of equal length."""

    id: list[str]
    """Their ids (`tasks.retrieval.chunks.Chunk`)."""
    title: list[list[str]]
    """Headings above each."""
    start: list[int]
    """Offset of each in the document's extracted text."""
    end: list[int]
    """Offset behind each."""
    text: list[str]
    """Their texts."""
    words: Postings
    """Their words, by the numbers of `Cache.vocabulary`."""


def version(**settings: Any) -> str:
    """Compute the SHA-256 of all that decides what is made of a document: settings as JSON, code, and libraries."""
    text = json.dumps([settings, _code()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _code() -> list[str]:
    files = [sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    return [*files, *(metadata.version(library) for library in _LIBRARIES), sys.version]


class Cache:
    """A table of records. Its owner holds the lock of the artifact, so no other process writes."""

    def __init__(self, path: Path) -> None:
        """Open or make the file `path`; one that is broken is made anew."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._table = _opened(path)
        except sqlite3.DatabaseError:
            path.unlink()
            self._table = _opened(path)
        self._changed = 0
        self.vocabulary = {word: at for at, (word,) in enumerate(self._table.execute(_VOCABULARY))}
        """Word to its number. New words are added by whoever counts words, and kept with the documents."""
        self._kept_words = len(self.vocabulary)
        self.read = 0
        """Documents that were not in the table, so far."""
        self.found = 0
        """Documents that were."""

    def get(self, source: str, name: str, stamp: str, version: str, changed: int) -> Record | None:
        """Find what was made of a document; None where it is new, may have changed, or is to be made otherwise.

        Args:
            source: name of its source.
            name: its name there.
            stamp: what tells its content apart.
            version: of `version()`.
            changed: nanoseconds since 1970 of its last change; 0 where the stamp alone suffices.
        """
        row = self._table.execute(
            "SELECT record FROM documents WHERE source = ? AND name = ? AND stamp = ? AND version = ? AND seen > ?",
            (source, name, stamp, version, changed + _SETTLED if changed else -1),
        ).fetchone()
        if row is None:
            self.read += 1
            return None
        self.found += 1
        return _record(row[0])

    def put(self, source: str, name: str, stamp: str, version: str, seen: int, record: Record, of: Pieces) -> None:
        """Keep what was made of a document that was read at `seen`, in nanoseconds since 1970, and its passages."""
        pieces = json.dumps({column: getattr(of, column) for column in _LISTS}, ensure_ascii=False)
        values = (source, name, stamp, version, seen, json.dumps(asdict(record)), pieces, of.words.to_bytes())
        self._table.execute("REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        self._changed += 1
        if self._changed % _EVERY == 0:
            self._commit()

    def keep(self, source: str, names: set[str]) -> None:
        """Forget the documents of a source that are not there any more."""
        there = [name for (name,) in self._table.execute("SELECT name FROM documents WHERE source = ?", (source,))]
        gone = [(source, name) for name in there if name not in names]
        self._table.executemany("DELETE FROM documents WHERE source = ? AND name = ?", gone)
        self._commit()

    def records(self, sources: list[str]) -> Iterator[tuple[str, str, Record, Callable[[], Pieces]]]:
        """Yield source, name and record of each document, by the order of their ids, and what reads its passages."""
        marks = ", ".join("?" * len(sources))
        names = self._table.execute(f"SELECT source, name FROM documents WHERE source IN ({marks})", sources).fetchall()
        one = "SELECT record, pieces, words FROM documents WHERE source = ? AND name = ?"
        for source, name in sorted(names, key="/".join):
            record, pieces, words = self._table.execute(one, (source, name)).fetchone()
            yield source, name, _record(record), partial(_pieces, pieces, words)

    def close(self) -> None:
        """Keep everything, and let go of the file."""
        self._commit()
        self._table.close()

    def _commit(self) -> None:
        """Keep the documents that were put, with the words that their numbers stand for."""
        new = islice(self.vocabulary.items(), self._kept_words, None)
        self._table.executemany("INSERT INTO words VALUES (?, ?)", ((number, word) for word, number in new))
        self._table.commit()
        self._kept_words = len(self.vocabulary)


def _opened(path: Path) -> sqlite3.Connection:
    table = sqlite3.connect(path)
    table.execute(f"PRAGMA page_size = {_PAGE}")
    table.execute(f"PRAGMA mmap_size = {_MAPPED}")
    table.execute(f"CREATE TABLE IF NOT EXISTS documents ({_COLUMNS}, PRIMARY KEY (source, name)) WITHOUT ROWID")
    table.execute("CREATE TABLE IF NOT EXISTS words (number INTEGER PRIMARY KEY, word TEXT)")
    table.execute("SELECT source, name, stamp, version, seen, record, pieces, words FROM documents LIMIT 1").fetchone()
    return table


def _record(text: str) -> Record:
    return Record(**json.loads(text))


def _pieces(lists: str, words: bytes) -> Pieces:
    return Pieces(**json.loads(lists), words=Postings.from_bytes(words))


def now() -> int:
    """Return nanoseconds since 1970, by the clock that file systems use."""
    return time.time_ns()
