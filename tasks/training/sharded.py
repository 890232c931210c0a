"""Rows of a set in Parquet shards: on the disk, mapped into memory, and read one at a time."""

import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

Row = dict[str, Any]


class ShardedRows(Sequence[Row]):
    """The rows of some shards, in order, as a sequence that is not held in memory. Columns that are null are left out,
    as they are in JSONL.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Open shards. Args: files: Parquet files of one schema."""
        self.dataset = opened(tuple(files))
        """The rows as a `datasets.Dataset`."""

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return _without_nulls(self.dataset[at])

    def __iter__(self) -> Iterator[Row]:
        return map(_without_nulls, self.dataset)


def _without_nulls(row: Row) -> Row:
    return {key: value for key, value in row.items() if value is not None}


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="polm-shards-")


@functools.cache
def opened(files: tuple[Path, ...]) -> Any:
    """Open shards as a `datasets.Dataset` whose rows stay on the disk.

    They are laid out as Arrow once, in a temporary folder that ends with the process: the cache of `datasets` in the
    home folder would keep one copy for each state of the data.
    """
    from datasets import Dataset

    return Dataset.from_parquet([str(file) for file in files], cache_dir=_scratch().name, keep_in_memory=False)


def temporary_file() -> str:
    """Name a new file in the folder that ends with the process, for what is made of shards."""
    return str(Path(_scratch().name) / f"{len(list(Path(_scratch().name).iterdir()))}.arrow")
