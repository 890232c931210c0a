"""Rows of Parquet and Arrow files, and of data sets saved to disk, which are Arrow files in a folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.ingestion.lines import COMPRESSED, Line, Reject, opened
from tasks.stage.errors import DataError

BATCH, BATCH_OF_BYTES = 4_096, 64
"""Rows that are read at once, and where they hold pictures or sounds."""
BUFFER = 1 << 20
"""Bytes of a column that are read at once; without a bound a whole row group is, which may be the whole file."""
STATE, SPLITS = "state.json", "dataset_dict.json"
"""Files by which a folder of `save_to_disk` is known: of one data set, and of one with several splits."""
_MAGIC = b"ARROW1"
"""First bytes of Arrow's format of files; its format of streams has none."""


def row_groups(path: Path, name: str) -> list[int]:
    """Count the rows of each row group of a Parquet file. Raises DataError where it is none."""
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.ParquetFile(_seekable(path)).metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{name}: not a readable Parquet file ({e}); is it cut off?") from None


def parquet_rows(path: Path, name: str, groups: list[int] | None = None, before: int = 0) -> Iterator[Line | Reject]:
    """Yield the rows of a Parquet file, numbered from 1.

    Args:
        path: the file.
        name: how rejects name it.
        groups: numbers of the row groups to read, from 0; None reads all.
        before: rows of the groups before these.

    Raises:
        DataError: it is no Parquet file, or has two columns of one name.
    """
    import pyarrow
    from pyarrow import parquet

    number = before
    try:
        file = parquet.ParquetFile(_seekable(path), buffer_size=BUFFER, pre_buffer=False)
        _check_columns(file.schema_arrow.names, name)
        size = BATCH_OF_BYTES if _holds_bytes(file.schema_arrow) else BATCH
        for batch in file.iter_batches(size, row_groups=groups):
            for item in _batch_rows(batch, name, number):
                number += 1
                yield item
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{name}: not a readable Parquet file ({e}); is it cut off?") from None


def arrow_rows(path: Path, name: str, before: int = 0) -> Iterator[Line | Reject]:
    """Yield the rows of an Arrow file, in the format of files or of streams, as `datasets` writes it.

    Args:
        path: the file.
        name: how rejects name it.
        before: rows of the files before it, where it is one of several.

    Raises:
        DataError: it is no Arrow file, or has two columns of one name.
    """
    import pyarrow

    try:
        source = _seekable(path)
        if source.read(len(_MAGIC)) == _MAGIC:
            reader = pyarrow.ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            source.seek(0)
            batches = reader = pyarrow.ipc.open_stream(source)
        _check_columns(reader.schema.names, name)
        size = BATCH_OF_BYTES if _holds_bytes(reader.schema) else BATCH
        for batch in batches:
            for start in range(0, batch.num_rows, size):
                yield from _batch_rows(batch.slice(start, size), name, before + start)
            before += batch.num_rows
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{name}: not a readable Arrow file ({e}); is it cut off?") from None


def saved_files(folder: Path, name: str) -> list[Path]:
    """List the Arrow files of a data set that `datasets` saved to disk (`save_to_disk`), in their order.

    Raises:
        DataError: it is no such folder, or one of several splits, of which one has to be named.
    """
    if (folder / SPLITS).is_file():
        splits = _read(folder / SPLITS).get("splits") or []
        shown = ", ".join(f"{name}/{split}" for split in splits)
        raise DataError(f"{name}: a data set of several splits; name one of them: {shown}")
    if not (folder / STATE).is_file():
        raise DataError(
            f"{name}: a folder, not a file; name one file in it, or read the folder as a source with `hub` (one that "
            f"`save_to_disk` wrote has a {STATE})"
        )
    files = _read(folder / STATE).get("_data_files") or []
    paths = [folder / str(file["filename"]) for file in files]
    if lost := [path.name for path in paths if not path.is_file()]:
        raise DataError(f"{name}: {STATE} names {lost[0]}, which is not there; copy the whole folder")
    return paths


def _read(path: Path) -> dict[str, Any]:
    """Read an object that `datasets` wrote beside its files. Raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read ({e}); save the data set anew") from None
    return value if isinstance(value, dict) else {}


def _seekable(path: Path) -> Any:
    """Open a file for reading at any place; a compressed one is decompressed into memory for that."""
    import pyarrow

    if path.suffix not in COMPRESSED:
        return pyarrow.OSFile(str(path))
    with opened(path) as f:
        return pyarrow.BufferReader(f.read())


def _check_columns(names: list[str], name: str) -> None:
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise DataError(f"{name}: more than one column is called {', '.join(map(repr, twice))}; rename one of them")


def _holds_bytes(schema: Any) -> bool:
    """Whether a file has columns of bytes, bare or inside others, such as `{bytes, path}`."""
    return any("binary" in str(field.type) for field in schema)


def _batch_rows(batch: Any, name: str, before: int) -> Iterator[Line | Reject]:
    """Yield a batch's rows as Python's values. Arrow can hold others: years beyond 9999, text that is no UTF-8."""
    import pyarrow

    unreadable = (ArithmeticError, KeyError, TypeError, ValueError, pyarrow.ArrowException)
    try:
        rows = batch.to_pylist(maps_as_pydicts="strict")
    except unreadable:
        rows = None
    if rows is not None:
        yield from (Line(before + i, row) for i, row in enumerate(rows, 1))
        return
    for i in range(batch.num_rows):
        row: dict[str, Any] = {}
        column = ""
        try:
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                row[column] = values[i].as_py(maps_as_pydicts="strict")
        except unreadable as e:
            yield Reject(name, before + i + 1, f"the value of '{column}' cannot be read ({e})", None)
        else:
            yield Line(before + i + 1, row)
