"""Parts of a file: read one after the other they are the file, with the same line numbers."""

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tasks.ingestion import parts
from tasks.ingestion.files import rows_of

CONTENT = '\ufeff{"a": 1}\n{"a": 2}\r\n\n{"a": 3}\r{"a": 4}\nnot JSON\n{"a": "\u2028"}\n[5]\n{"a": 6}'


@pytest.mark.parametrize("stretch", [1, 10, 23, 1000])
def test_stretches_of_lines_are_the_file(workspace: Path, monkeypatch: pytest.MonkeyPatch, stretch: int) -> None:
    path = Path("rows.jsonl")
    path.write_bytes(CONTENT.encode())
    monkeypatch.setattr(parts, "STRETCH", stretch)
    divided = parts.divide(path, "rows.jsonl")
    assert (len(divided) > 1) == (stretch < 1000)
    assert [item for part in divided for item in parts.rows(part)] == list(rows_of(path, "rows.jsonl"))
    assert len(list(rows_of(path, "rows.jsonl"))) == 8


def test_row_groups_are_the_file(workspace: Path) -> None:
    table = pyarrow.table({"a": list(range(25))})
    parquet.write_table(table, "rows.parquet", row_group_size=10)
    divided = parts.divide(Path("rows.parquet"), "rows.parquet")
    assert [part.before for part in divided] == [0, 10, 20]
    read = [item for part in divided for item in parts.rows(part)]
    assert read == list(rows_of(Path("rows.parquet"), "rows.parquet"))
    assert len(read) == 25
