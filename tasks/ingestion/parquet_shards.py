"""Large sets as Parquet files of a number of rows each: `sft/train/00000.parquet` in place of `sft/train.jsonl`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks.ingestion.mapping import TURNS
from tasks.ingestion.values import Columns, Kind
from tasks.stage.errors import DataError

SCALARS = {
    "true or false": "bool",
    "a whole number": "int64",
    "a whole number beyond 2**53": "int64",
    "a number": "float64",
    "text": "string",
}
"""Kind of a value to Arrow's name of its type."""


def schema(turns: Iterable[str], kinds: Columns) -> Any:
    """Make the schema that all shards of a file have, whatever their rows lack.

    Args:
        turns: columns of messages that its rows have.
        kinds: of all other columns.

    Raises:
        DataError: a column holds mappings without a key, which Parquet cannot hold.
    """
    import pyarrow as pa

    message = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    messages = {name: message for name in TURNS if name in set(turns)}
    others = {name: _type(name, kind) for name, kind in kinds.found().items()}
    return pa.schema({"id": pa.string(), **messages, **others, "source": pa.string()})


def _type(name: str, kind: Kind | None) -> Any:
    import pyarrow as pa

    if kind is None:  # no row has a value there
        return pa.string()
    if isinstance(kind, str):
        return pa.type_for_alias(SCALARS[kind])
    if kind[0] == "a list":
        return pa.list_(_type(f"{name}[…]", kind[1]))
    if not kind[1]:
        raise DataError(f"'{name}' holds mappings without a key, which Parquet cannot hold; leave it out of the map")
    return pa.struct({key: _type(f"{name}.{key}", inner) for key, inner in kind[1].items()})


def write(folder: Path, batches: Iterable[Sequence[str]], columns: Any, rows: int) -> None:
    """Write rows, given as JSON, to shards of so many rows, the last one of what is left.

    Args:
        folder: of the shards, which is made.
        batches: JSON of rows, of some more than one, each on a line.
        columns: the schema.
        rows: of a shard.
    """
    from pyarrow import parquet

    folder.mkdir(parents=True)
    writer: Any = None
    left = number = 0
    for batch in batches:
        lines = [line for written in batch for line in written.split("\n")]
        while lines:
            if left == 0:
                if writer is not None:
                    writer.close()
                writer = parquet.ParquetWriter(folder / f"{number:05}.parquet", columns, compression="zstd")
                left, number = rows, number + 1
            writer.write_table(_table(lines[:left], columns))
            left, lines = left - len(lines[:left]), lines[left:]
    if writer is not None:
        writer.close()


def _table(lines: Sequence[str], columns: Any) -> Any:
    import pyarrow as pa
    from pyarrow import json

    text = "\n".join(lines).encode()
    parse = json.ParseOptions(explicit_schema=columns, unexpected_field_behavior="error")
    table = json.read_json(pa.BufferReader(text), json.ReadOptions(use_threads=False, block_size=len(text) + 1), parse)
    return table.select(columns.names).cast(columns)
