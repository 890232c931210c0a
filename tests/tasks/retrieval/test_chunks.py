"""Chunks on the disk, and which of them is gold."""

from pathlib import Path

import pytest

from tasks.retrieval.chunks import FILE, GROUP, Chunk, gold, read_chunks, write_chunks
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
