"""Chunks: the passages that documents were cut into, as `tasks/rag_chunks.py` writes them, and which of them is gold.

One row of `chunks.parquet`:

    {"id": "9f0c…", "document": "people/0001.txt", "source": "people", "title": ["Ada Pell"], "start": 9, "end": 41,
     "text": "Ada Pell was born in Fallmouth."}
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tasks.stage.errors import ArtifactError

FILE = "chunks.parquet"
"""Name of the chunks' file in an artifact."""
GROUP = 10_000
"""Rows of the file that are in memory at once."""


@dataclass(frozen=True)
class Chunk:
    """A passage of one document."""

    id: str
    """16 hex digits of a SHA-256 over its document's id, its title, its text and the chunker's settings, and for a
    passage that its document repeats, over how often it stood above. Text that comes before it changes nothing."""
    document: str
    """Id of the document: `<source>/<name>`."""
    source: str
    """Name of the source in the recipe."""
    title: tuple[str, ...]
    """Headings above it, the outermost first; of a PDF also the page."""
    start: int
    """Offset of its first character in the document's extracted text, from 0."""
    end: int
    """Offset behind its last character."""
    text: str
    """The document's extracted text from `start` to `end`."""


COLUMNS = tuple(Chunk.__dataclass_fields__)
"""Columns of the file, in its order."""


class Text(NamedTuple):
    """What is embedded of a chunk, and what tells whether it answers a question."""

    document: str
    """Id of the document."""
    title: Sequence[str]
    """Headings above it, the outermost first."""
    text: str
    """Its text."""


def write_chunks(chunks: Iterable[Chunk], folder: Path) -> int:
    """Write `chunks.parquet`, group by group, and return the number of rows. Equal chunks give equal bytes.

    Args:
        chunks: sorted by document and start.
        folder: where the file goes.
    """
    remaining = iter(chunks)
    groups = iter(lambda: list(islice(remaining, GROUP)), [])
    return write_columns(
        ({name: [getattr(one, name) for one in group] for name in COLUMNS} for group in groups), folder
    )


def write_columns(parts: Iterable[Mapping[str, Sequence[Any]]], folder: Path) -> int:
    """Write `chunks.parquet` as `write_chunks` does, from columns: the same bytes however the rows are parted.

    Args:
        parts: of consecutive chunks, each the columns by the names of `Chunk`, of equal length.
        folder: where the file goes.
    """
    import pyarrow
    from pyarrow import parquet

    text, number = pyarrow.string(), pyarrow.int64()
    kinds = {"title": pyarrow.list_(text), "start": number, "end": number}
    schema = pyarrow.schema([(name, kinds.get(name, text)) for name in COLUMNS])
    count = 0
    waiting: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    with parquet.ParquetWriter(folder / FILE, schema) as writer:

        def write() -> int:
            group = {name: column[:GROUP] for name, column in waiting.items()}
            for column in waiting.values():
                del column[:GROUP]
            writer.write_table(pyarrow.table(group, schema))
            return len(group["id"])

        for part in parts:
            for name, column in waiting.items():
                column.extend(part[name])
            while len(waiting["id"]) >= GROUP:
                count += write()
        if waiting["id"]:
            count += write()
    return count


def _batches(folder: Path, names: Sequence[str]) -> Iterator[list[list[Any]]]:
    """Yield some columns of `chunks.parquet`, a group of rows at a time. Raises ArtifactError as `iterate_chunks`."""
    import pyarrow
    from pyarrow import parquet

    path = folder / FILE
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(GROUP, columns=list(names)):
                yield [batch.column(name).to_pylist() for name in names]
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run `polm run`, or name a folder of chunks") from None
    except (pyarrow.ArrowException, KeyError, OSError) as e:
        raise ArtifactError(f"{path}: no file of chunks ({e}); delete its folder and run `polm run`") from None


def iterate_chunks(folder: Path) -> Iterator[Chunk]:
    """Yield the chunks of an artifact in the order of the rows, of which a group at a time is in memory.

    Raises:
        ArtifactError: there are none, or the file is none of chunks.
    """
    for columns in _batches(folder, COLUMNS):
        for name, document, source, title, start, end, text in zip(*columns, strict=True):
            yield Chunk(name, document, source, tuple(title), start, end, text)


def read_texts(folder: Path) -> list[Text]:
    """Read what is embedded of each chunk, in the order of the rows: sooner than `read_chunks`.

    Raises:
        ArtifactError: there are none, or the file is none of chunks.
    """
    return [text for columns in _batches(folder, Text._fields) for text in map(Text._make, zip(*columns, strict=True))]


def read_chunks(folder: Path) -> list[Chunk]:
    """Read the chunks of an artifact of `tasks/rag_chunks.py`, or of an index made from one, in the order of the rows.

    Raises:
        ArtifactError: there are none, or the file is none of chunks.
    """
    return list(iterate_chunks(folder))


def gold(chunks: Sequence[Chunk] | Sequence[Text], document: str, quote: str) -> list[int]:
    """Find the chunks that hold a question's answer: those of its document whose text contains its quote.

    Args:
        chunks: sorted by document, as `read_chunks` returns them.
        document: id of the document; empty for a question without an answer.
        quote: a sentence of the document. How white space falls in it does not count: lines may be wrapped.

    Returns:
        Rows of the chunks, ascending; empty without a quote, or where no chunk holds all of it.
    """
    words = _words(quote)
    if not words:
        return []
    first = bisect_left(chunks, document, key=lambda chunk: chunk.document)
    after = bisect_right(chunks, document, key=lambda chunk: chunk.document)
    return [row for row in range(first, after) if words in _words(chunks[row].text)]


def _words(text: str) -> str:
    return " ".join(text.split())
