"""What is kept of each row of a set while it is chosen from: a line of facts in a Parquet file, and what is written.

From here on a row is its facts: duplicates, sides, limits and the order are found among them, by DuckDB and NumPy, and
the text itself is touched once more, when it is written.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.ingestion import cleaning as clean
from tasks.ingestion import minhash
from tasks.ingestion.evaluation_rows import EvaluationRows, group_key
from tasks.ingestion.ledger import SHOWN, Item
from tasks.ingestion.lines import Reject
from tasks.ingestion.mapper import Entry, Mapper
from tasks.ingestion.mapping import kind_of, parts
from tasks.ingestion.settings import NearDuplicates
from tasks.ingestion.spool import Chunk, rows_of
from tasks.ingestion.turns import unlearnt
from tasks.ingestion.values import Columns
from tasks.ingestion.words import hashed

PLACES = 20
"""Bits of a row's number that count the rows of its file of facts; those above count the files."""
BATCH = 256
"""Rows whose facts are collected before they become arrays."""


@dataclass(frozen=True)
class Described:
    """What the facts of a set depend on, besides its rows."""

    seed: int
    """Of the order of rows, and of MinHash."""
    near: NearDuplicates | None
    """Settings of near-duplicates; None where they stay."""
    bands: tuple[int, int]
    """How many bands a sketch has, and how many hashes each; looked at where near-duplicates go."""
    evaluation: EvaluationRows | None
    """The rows that may not be trained on; None for an evaluation set, which is no training."""
    sides: Mapping[bytes, str]
    """Sides of groups that media tie to others, by the group's key."""


@dataclass
class Mapped:
    """What became of one chunk of rows."""

    facts: int
    """Rows in its file of facts."""
    rejects: list[Reject]
    """Rows that could not be used."""
    scrubbed: Counter[str]
    """Kind to how many were replaced."""
    unused: Counter[str]
    """Keys and columns that nothing looks at, to the number of rows."""
    kinds: Columns
    """The kinds of the columns of its rows."""
    of_another_kind: int
    """Rejects whose values are of another kind than those before."""


def map_chunk(
    entry: Entry, described: Described | Path, chunk: Chunk, number: int, path: Path, kinds: Columns | None = None
) -> Mapped:
    """Map a chunk of rows and write its facts, in whatever process.

    Args:
        entry: the entry of the set's `rows`.
        described: what the facts depend on, or the file that `Described` was saved to.
        chunk: the rows.
        number: of the file of facts among those of the set, from 0.
        path: the file of facts.
        kinds: columns of the rows before; None begins anew.
    """
    found = minhash.saved(described) if isinstance(described, Path) else described
    mapper = Mapper(entry, kinds := Columns() if kinds is None else kinds)
    count = write_facts(mapper.items(rows_of(chunk)), found, number, path)
    return Mapped(count, mapper.rejects, mapper.scrubbed, mapper.unused, kinds, mapper.of_another_kind)


def write_facts(items: Iterable[Item], described: Described, number: int, path: Path) -> int:
    """Write the facts of rows to a file, beside it their MinHashes where near-duplicates go, and count the rows."""
    import pyarrow
    from pyarrow import parquet

    schema = _schema()
    sketches = minhash.Sketches(described.near, described.bands, described.seed) if described.near else None
    items = iter(items)
    count = 0
    with parquet.ParquetWriter(path, schema, compression="lz4") as writer:
        while batch := list(islice(items, BATCH)):
            rows = _facts(batch, described, sketches)
            for i, row in enumerate(rows, count):
                row["row"] = number << PLACES | i
            count += len(rows)
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    if sketches is not None:
        sketches.write(path)
    return count


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        {
            "row": pa.int64(),
            "id": pa.uint64(),
            "place": pa.uint64(),  # with the next one the first 16 bytes of the hash that gives the order
            "place_below": pa.uint64(),
            "entry": pa.int16(),
            "line": pa.int64(),
            "split": pa.string(),
            "group_key": pa.binary(16),
            "family": pa.string(),
            "off": pa.string(),
            "unlearnt": pa.int32(),
            "evaluation": pa.string(),
            "overlap": pa.float64(),
            "shown": pa.string(),
            "files": pa.list_(pa.string()),
            "written": pa.string(),
            "pieces": pa.int32(),
            "characters": pa.list_(pa.int32()),
            "tokens": pa.list_(pa.int32()),
        }
    )


def _facts(items: list[Item], described: Described, sketches: minhash.Sketches | None) -> list[dict[str, Any]]:
    """Find what is kept of rows, all but their numbers."""
    texts = [parts(item.row) for item in items]
    rows = [_own_facts(item, of_row, described) for item, of_row in zip(items, texts, strict=True)]
    if described.evaluation is None and sketches is None:
        return rows
    words = hashed([text for of_row in texts for text in of_row])
    if sketches is not None:
        keys = [_key_texts(item, of_row) for item, of_row in zip(items, texts, strict=True)]
        sketches.add(keys, [row["family"] for row in rows], words if keys == texts else None)
    if described.evaluation is not None:
        found = described.evaluation.contained(texts, words, [row["group_key"] for row in rows])
        for row, overlap in zip(rows, found, strict=True):
            if overlap is not None and row["split"] != "test":
                row["evaluation"], row["overlap"] = overlap
    return rows


def _key_texts(item: Item, texts: list[str]) -> list[str]:
    """List the texts by which a row is like another one: its key, which is mostly nothing but `texts`."""
    if kind_of(item.set) in ("eval", "prompts") or item.files or unlearnt(item.row):
        return [item.key]
    return texts


def _own_facts(item: Item, texts: list[str], described: Described) -> dict[str, Any]:
    """Find what is kept of a row for its own sake."""
    off = unlearnt(item.row)
    key = group_key(item.group)
    place = hashlib.sha256(f"{described.seed}:{item.id}".encode()).digest()
    rows = item.written()
    lengths = [_lengths(" ".join(parts(row) if off else texts)) for row in rows]
    return {
        "id": int(item.id, 16),
        "place": int.from_bytes(place[:8], "big"),
        "place_below": int.from_bytes(place[8:16], "big"),
        "entry": item.entry,
        "line": item.line,
        "split": described.sides.get(key, item.split),
        "group_key": key,
        "family": "\x00".join(item.families),
        "off": str(off) if off else "",
        "unlearnt": len(off),
        "shown": " | ".join(texts)[:SHOWN],
        "files": list(item.files),
        "written": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "pieces": len(rows),
        "characters": [characters for characters, _ in lengths],
        "tokens": [tokens for _, tokens in lengths],
    }


def _lengths(text: str) -> tuple[int, int]:
    return len(text), clean.count_signs(text)
