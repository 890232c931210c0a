"""Chunks on the disk, and which of them is gold."""

from pathlib import Path

import pytest

from tasks.retrieval.chunks import (
    COLUMNS,
    FILE,
    GROUP,
    Chunk,
    gold,
    read_chunks,
    read_texts,
    write_chunks,
    write_columns,
)
from tasks.stage.errors import ArtifactError


def chunk(document: str, start: int, text: str, title: tuple[str, ...] = ()) -> Chunk:
    return Chunk(f"{start:016x}", document, document.partition("/")[0], title, start, start + len(text), text)


CHUNKS = [
    chunk("a/1", 0, "Ada lives in Fallmouth. She keeps a heron."),
    chunk("a/1", 24, "She keeps\n  a heron. It is old.", ("Birds", "Herons")),
    chunk("a/10", 0, "She keeps a heron."),
    chunk("a/2", 0, "Ben lives in Oss."),
]


def test_chunks_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert write_chunks(CHUNKS, tmp_path) == 4
    assert read_chunks(tmp_path) == CHUNKS


def test_more_chunks_than_a_group_keep_their_order(tmp_path: Path) -> None:
    many = [chunk("a/1", at, "x") for at in range(GROUP + 5)]
    assert write_chunks(iter(many), tmp_path) == len(many)
    assert read_chunks(tmp_path) == many


def test_rows_have_the_same_bytes_however_they_were_parted(tmp_path: Path) -> None:
    many = [chunk("a/1", at, f"x{at}", ("Birds",) * (at % 3)) for at in range(2 * GROUP + 5)]
    columns = {name: [getattr(one, name) for one in many] for name in COLUMNS}
    written = set()
    for number, size in enumerate([1_500, GROUP, len(many)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        parts = ({name: of[at : at + size] for name, of in columns.items()} for at in range(0, len(many), size))
        assert write_columns(parts, folder) == len(many)
        written.add((folder / FILE).read_bytes())
    write_chunks(many, tmp_path)
    assert written == {(tmp_path / FILE).read_bytes()}


def test_what_is_embedded_is_read_without_the_rest(tmp_path: Path) -> None:
    write_chunks(CHUNKS, tmp_path)
    texts = read_texts(tmp_path)
    assert [(one.document, tuple(one.title), one.text) for one in texts] == [
        (one.document, one.title, one.text) for one in CHUNKS
    ]
    assert gold(texts, "a/1", "She keeps a heron.") == [0, 1]


def test_gold_is_every_chunk_of_the_document_that_holds_the_quote() -> None:
    assert gold(CHUNKS, "a/1", "She keeps a heron.") == [0, 1]
    assert gold(CHUNKS, "a/10", "She keeps a heron.") == [2]
    assert gold(CHUNKS, "a/2", "She keeps a heron.") == []
    assert gold(CHUNKS, "a/3", "She keeps a heron.") == []
    assert gold(CHUNKS, "", "") == [] == gold(CHUNKS, "a/1", "")


def test_what_is_no_file_of_chunks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"chunks\.parquet: no such file"):
        read_chunks(tmp_path)
    (tmp_path / FILE).write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"chunks\.parquet: no file of chunks"):
        read_chunks(tmp_path)
