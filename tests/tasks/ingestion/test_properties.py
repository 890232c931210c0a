"""Property: whatever a file holds, every line is a row or a reject, and a reader stops with a `DataError` alone."""

import csv
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.ingestion.files import read_file
from tasks.ingestion.mapping import render, validate
from tasks.ingestion.values import BadRow, Columns, plain, printable
from tasks.stage.errors import DataError

EXAMPLES = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CHARACTERS = st.characters(categories=("L", "N", "P", "S", "Z", "Cc", "Cs", "Cf"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(CHARACTERS, max_size=8)
VALUES = st.recursive(
    SCALARS | st.binary(max_size=4) | st.dates() | st.datetimes() | st.decimals() | st.timedeltas() | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS, max_size=3), inner, max_size=3),
    max_leaves=8,
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS, max_size=3), inner, max_size=3),
    max_leaves=8,
)
CELL = st.text(st.sampled_from('ab ,"\n\r\t\u2028é'), max_size=8)


@EXAMPLES
@given(st.lists(st.dictionaries(st.text(CHARACTERS, max_size=3), JSON, max_size=4) | JSON, max_size=6))
def test_any_line_of_jsonl_is_a_row_or_a_reject(workspace: Path, items: list[Any]) -> None:
    """Python writes NaN and half surrogates as readily as it reads them."""
    Path("rows.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    lines, rejects = read_file(Path("rows.jsonl"), "rows.jsonl")
    assert sorted([line.number for line in lines] + [r.line for r in rejects]) == list(range(1, len(items) + 1))
    for line in lines:
        assert line.row == items[line.number - 1], "read as it was written"
        json.dumps(line.row, allow_nan=False, ensure_ascii=False).encode()
    for reject in rejects:
        assert not isinstance(items[reject.line - 1], dict) or cannot_be(items[reject.line - 1]), reject.reason


def cannot_be(value: Any) -> bool:
    """Whether JSON or UTF-8 has no form for a value."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return True
    return False


@EXAMPLES
@given(st.binary(max_size=200) | st.text(st.sampled_from('{}[]":,\\ue1NaN\n\r '), max_size=60).map(str.encode))
@pytest.mark.parametrize("suffix", ["jsonl", "txt", "csv", "parquet"])
def test_no_bytes_end_in_a_traceback(workspace: Path, suffix: str, content: bytes) -> None:
    path = Path(f"rows.{suffix}")
    path.write_bytes(content)
    try:
        lines, rejects = read_file(path, path.name)
    except DataError as e:
        assert str(e).startswith(f"{path}")
        return
    full = sum(bool(raw.strip()) for raw in content.splitlines())
    if suffix in ("jsonl", "txt"):
        named = {line.number for line in lines} | {r.line for r in rejects}
        assert len(named) == len(lines) + len(rejects) <= full
    for line in lines:
        json.dumps(line.row, allow_nan=False, ensure_ascii=False).encode()


@EXAMPLES
@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_a_csv_writer_wrote_is_read_as_it_was(
    workspace: Path, cells: list[tuple[str, str, str]], end: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b", "c"), *cells])
    Path("rows.csv").write_bytes(text.getvalue().encode())
    lines, rejects = read_file(Path("rows.csv"), "rows.csv")
    assert rejects == []
    assert [tuple(line.row.values()) for line in lines] == cells


BROKEN = ['"open,x', 'x,"open', '"a"b,c', "one", "one,two,three", '"', '""",', 'é"é","', '"a" ,b', ',,"']


@EXAMPLES
@given(st.integers(0, 8), st.sampled_from(BROKEN), st.lists(st.sampled_from(BROKEN), max_size=3))
def test_a_broken_record_of_csv_costs_itself_alone(workspace: Path, at: int, broken: str, more: list[str]) -> None:
    """Among records of one line each. Between the quotes of two broken ones all lines may be lost, and are named."""
    good = [f'q{i},"say ""{i}"""' if i % 2 else f"q{i},{i}" for i in range(9)]
    mixed = [*good[:at], broken, *good[at:]]
    mixed += more
    Path("rows.csv").write_text("\n".join(["question,answer", *mixed]) + "\n", encoding="utf-8")
    lines, rejects = read_file(Path("rows.csv"), "rows.csv")
    kept = Counter(line.row["question"] for line in lines)
    assert set(kept.values()) <= {1}
    assert more or all(kept[f"q{i}"] for i in range(9))
    assert all(len(question) == 2 for question in kept if "q" in question), "a row holds another's text"
    named = {line.number for line in lines} | {r.line for r in rejects}
    assert named >= {number for number, text in enumerate(mixed, 2) if text in good}
    assert more or named == set(range(2, len(mixed) + 2))


@EXAMPLES
@given(st.lists(st.dictionaries(st.sampled_from(["question", "answer", "extra"]), VALUES), max_size=6))
def test_whatever_a_source_yields_becomes_rows_that_arrow_holds_or_bad_rows(items: list[dict[str, Any]]) -> None:
    from datasets import Dataset

    template = {"question": "{question}", "answer": "It is {answer}.", "extra": "{extra}"}
    columns, kept = Columns(), []
    for item in items:
        json.dumps(printable(item), allow_nan=False, ensure_ascii=False).encode()
        try:
            row = validate("eval:x", render(template, item))
            columns.add(row, "x:1")
        except BadRow as e:
            str(e).encode()
            continue
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
        kept.append(row)
    assert len(Dataset.from_list(kept)) == len(kept)


@EXAMPLES
@given(st.lists(VALUES, max_size=4))
def test_kinds_agree_with_arrow(values: list[Any]) -> None:
    """A column that passes is one that Arrow takes."""
    import pyarrow as pa

    columns, kept = Columns(), []
    for value in values:
        try:
            good = plain("x", value)
            columns.add({"x": good}, "x:1")
        except BadRow:
            continue
        kept.append(good)
    assert len(pa.array(kept)) == len(kept)
    assert all(not isinstance(value, float) or math.isfinite(value) for value in kept)
