"""A look at a data set: rows counted, and what cannot be read is named with its line and its fault."""

import gzip
from pathlib import Path

import pytest

from tasks.ingestion.recognition.sample import FEW, look
from tasks.stage.errors import DataError
from tests.support.data_stage import write_rows

ROW = {"question": "How?", "answer": "So."}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "question;answer\nq;a, b\n",
            r"a\.csv: semicolons stand between its columns \('quest",
        ),
        ("b.csv", "question;answer\nq;a\n", "semicolons stand between its columns"),
        ("c.csv", "question\tanswer\nq\ta\n", "tabs stand between its columns"),
        ("d.csv", "question,answer\nq,a,b\n", r"of 1 lines; the first: .*d\.csv:2: has 3 fields"),
        ("e.jsonl", '[{"question": "q"}]\n', r"the first: .*e\.jsonl:1: not a JSON object"),
        ("f.jsonl", "\n\n", r"f\.jsonl: not one row stands in it"),
        ("g.csv", "question,answer\n", r"g\.csv: not one row stands in it"),
    ],
)
def test_a_file_without_rows_is_refused_with_the_fault_of_its_first_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        look(str(path), "CC0-1.0")
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(content.encode()))
    with pytest.raises(DataError, match=message.replace(r"jsonl:", r"jsonl.gz:").replace(r"csv:", r"csv.gz:")):
        look(str(path), "CC0-1.0")


def test_a_line_that_is_no_row_is_kept_with_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text"\n')
    sample = look(str(path), "CC0-1.0")
    assert (sample.total, sample.unreadable) == (1, 1)
    assert sample.reason.startswith(f"{path}:2: not JSON")


def test_all_rows_of_a_folder_are_counted(tmp_path: Path) -> None:
    write_rows(tmp_path, [ROW] * FEW, "a.jsonl")
    write_rows(tmp_path, [ROW] * 50, "b.jsonl")
    sample = look(str(tmp_path), "CC0-1.0")
    assert (len(sample.rows), sample.total, sample.at_least) == (FEW + 50, FEW + 50, False)


def test_a_folder_of_two_kinds_of_rows_is_refused_since_one_would_be_dropped(tmp_path: Path) -> None:
    write_rows(tmp_path, [ROW] * 3, "a.jsonl")
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert look(str(tmp_path), "CC0-1.0").total == 3
    (tmp_path / "b.csv").write_text("question,answer\nHow?,Otherwise.\n")
    with pytest.raises(DataError, match=r"rows in JSON \(a\.jsonl\) and CSV \(b\.csv\).*name the files themselves"):
        look(str(tmp_path), "CC0-1.0")
