"""Records of CSV that are read as they come: the same ones however few lines are held, and a bound on looking ahead."""

import random
from pathlib import Path

import pytest

from tasks.ingestion import csv_files, files
from tasks.ingestion.csv_files import _Lines
from tasks.ingestion.lines import Line, Reject
from tasks.stage.errors import DataError


def test_rows_do_not_depend_on_how_many_lines_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    pieces = ["a,b\n", '"x\ny",2\n', '5" tall,3\n', '"open,4\n', "\n", "one\n", '"q ""z""",5\r\n']
    path = tmp_path / "rows.csv"
    path.write_text("\ufeffleft,right\n" + "".join(rng.choices(pieces, k=400)), encoding="utf-8", newline="")
    found = []
    for trim in (1, 10**6):
        monkeypatch.setattr(csv_files, "_TRIM", trim)
        found.append(list(files.rows_of(path, "rows.csv")))
    assert found[0] == found[1]
    assert {type(item) for item in found[0]} == {Line, Reject}


def test_lines_that_are_done_with_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_TRIM", 10)
    lines = _Lines(str(i) for i in range(10_000))
    for i in range(9_000):
        lines.forget(i)
        assert lines[i] == str(i)
        assert len(lines._held) <= 11
    assert not lines.has(10_000)


def test_an_open_quote_is_looked_for_no_further_than_so_many_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "AHEAD", 20)
    path = tmp_path / "rows.csv"
    path.write_text('left,right\n"open,1\n' + "a,b\n" * 500, encoding="utf-8")
    found = list(files.rows_of(path, "rows.csv"))
    assert isinstance(found[0], Reject)
    assert found[0].line == 2
    assert found[1:] == [Line(i, {"left": "a", "right": "b"}) for i in range(3, 503)]


@pytest.mark.parametrize(("suffix", "sign"), [("csv", ";"), ("csv", "\t"), ("tsv", ","), ("csv", "|")])
def test_fields_parted_by_another_sign_are_named_as_such(tmp_path: Path, suffix: str, sign: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_text(f"\ufeffquestion{sign}answer\na{sign}b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"\w+ stand between its columns .*, where (commas|tabs) are expected"):
        list(files.rows_of(path, path.name))
