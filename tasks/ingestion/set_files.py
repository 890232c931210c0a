"""The files of a set: JSONL, or Parquet shards where it has many rows; and the evaluation rows that others avoid."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.ingestion import parquet_shards
from tasks.ingestion.evaluation_rows import EvaluationRows
from tasks.ingestion.ledger import Ledger
from tasks.ingestion.selection import Selection
from tasks.ingestion.settings import Shards
from tasks.ingestion.values import Columns
from tasks.stage.lifecycle import Run


@contextmanager
def added_up(run: Run, name: str) -> Iterator[None]:
    """Add the seconds of a block to a measurement of the run."""
    start = time.perf_counter()
    yield
    run.measure(**{name: round(run.measured.get(name, 0) + time.perf_counter() - start, 3)})


def protect(name: str, selection: Selection, evaluation: EvaluationRows) -> int:
    """Keep training rows away from the rows of an evaluation set that are tested, and count these."""
    count = 0
    for batch in selection.batches("test", "written, group_key, family", "row"):
        for written, group, family in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            row = json.loads(written)
            evaluation.protect(f"{name}#{row['id']}", row, group, bool(family))
            count += 1
    return count


def write(
    name: str,
    selection: Selection,
    split: str,
    out: Path,
    path: str,
    shards: Shards | None,
    kinds: Columns,
    ledger: Ledger,
) -> set[str]:
    """Write what stays of one side of a set.

    Args:
        name: the set.
        selection: its rows.
        split: the side.
        out: the artifact.
        path: of the file in it, without the suffix.
        shards: from how many rows it is written as shards; None never.
        kinds: of its columns.
        ledger: told of what is in it.

    Returns:
        Names of the pictures and sounds in it.
    """
    import numpy as np

    counts = selection.counts(split)
    rows = sum(pieces for _, pieces, _ in counts.values())
    lengths: dict[str, list[Any]] = {"characters": [], "tokens": []}
    used: set[str] = set()

    def lines() -> Iterator[list[str]]:
        for batch in selection.batches(split, "written, characters, tokens, files"):
            for column, found in lengths.items():
                found.append(batch.column(column).flatten().to_numpy().copy())  # a view would keep the whole batch
            used.update(batch.column("files").flatten().to_pylist())
            yield batch.column("written").to_pylist()

    if shards is None or rows <= shards.rows:
        file = f"{path}.jsonl"
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        with (out / file).open("w", encoding="utf-8") as f:
            for batch in lines():
                f.writelines(f"{written}\n" for written in batch)
    else:
        file = f"{path}/"
        parquet_shards.write(out / path, lines(), parquet_shards.schema(selection.turns(split), kinds), shards.rows)
    ledger.kept(
        name,
        file,
        {source: (count, turns) for source, (count, _, turns) in counts.items()},
        np.concatenate(lengths["characters"]),
        np.concatenate(lengths["tokens"]),
    )
    return used
