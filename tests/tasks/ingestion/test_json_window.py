"""An array that is read a stretch at a time: the same rows, lines and messages wherever the stretches end."""

import io
import json
import random
from pathlib import Path

import pytest

from tasks.ingestion import files, json_window
from tasks.ingestion.json_window import Window
from tasks.ingestion.lines import Line
from tasks.stage.errors import DataError


@pytest.mark.parametrize("block", [1, 3, 17, 1 << 20])
def test_rows_and_their_lines_do_not_depend_on_where_stretches_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(json_window, "BLOCK", block)
    rng = random.Random(0)
    rows = [{"a": rng.choice(["ä€😀\n", '"\\', "", "x" * 60]), "b": [i, -1.5e3, None, {"c": True}]} for i in range(20)]
    path = tmp_path / "rows.json"
    path.write_text("\ufeff \n" + json.dumps(rows, ensure_ascii=False, indent=rng.choice([1, 2])), encoding="utf-8")
    found = list(files.rows_of(path, "rows.json"))
    assert [line.row for line in found if isinstance(line, Line)] == rows
    text = path.read_text(encoding="utf-8-sig").splitlines()
    numbers = [line.number for line in found if isinstance(line, Line)]
    assert all(text[number - 1].strip() == "{" for number in numbers)
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'[{"a": 1},\n {"a": tru}]', r"rows\.json:2: not JSON \(Expecting value, column 8\)"),
        (b'[{"a": 1},\n {"a": "x\xff"}]', r"rows\.json: not UTF-8 at byte 21;"),
        (b'[{"a": 1}, {"a": "open]', r"rows\.json:1: not JSON \(Unterminated string starting at, column 18\)"),
        (b"[12.5e", r"rows\.json:1: no comma or bracket|not JSON"),
    ],
)
def test_a_broken_array_is_named_wherever_stretches_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, raw: bytes, message: str
) -> None:
    monkeypatch.setattr(json_window, "BLOCK", block)
    (tmp_path / "rows.json").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        list(files.rows_of(tmp_path / "rows.json", "rows.json"))


def test_no_more_than_a_stretch_is_held_and_a_missing_quote_does_not_fill_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_window, "BLOCK", 1_000)
    window = Window(io.BytesIO(b"[" + b'{"a": 1}, ' * 5_000), "rows.json")
    window.peek()
    window.take(1)
    for _ in range(4_000):
        assert window.value() == '{"a": 1}'
        window.peek()
        window.take(1)
        window.peek()
        assert len(window._text) < 3_000
    monkeypatch.setattr(json_window, "LONGEST", 10_000)
    file = io.BytesIO(b'{"a": "' + b"x" * 100_000)
    with pytest.raises(DataError, match=r"rows\.json:1: a value of more than .* is a quote missing"):
        Window(file, "rows.json").value()
    assert file.tell() < 50_000
