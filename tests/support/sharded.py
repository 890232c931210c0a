"""A data artifact's sets as Parquet shards, in the place of its JSONL."""

import shutil
from pathlib import Path

from tasks.ingestion import parquet_shards
from tasks.ingestion.mapping import TURNS
from tasks.ingestion.values import Columns
from tasks.stage.artifact import read_jsonl


def in_shards(data: Path, folder: Path, rows: int = 7) -> Path:
    """Copy an artifact into a new folder, each of its sets in shards of so many rows."""
    shutil.copytree(data, folder)
    files = [path for path in sorted(folder.rglob("*.jsonl")) if path.name != "rejects.jsonl"]
    assert files
    for path in files:
        made = read_jsonl(path)
        turns = {name for row in made for name in row if name in TURNS}
        kinds = Columns()
        for row in made:
            kinds.add({k: v for k, v in row.items() if k not in {*turns, "id", "source"}}, "here")
        lines = path.read_text(encoding="utf-8").splitlines()
        parquet_shards.write(path.with_suffix(""), [lines], parquet_shards.schema(turns, kinds), rows)
        path.unlink()
    return folder
