"""Property: no bad data file, whatever its format, ends in a traceback, or loses or changes a row in silence."""

import datetime
import decimal
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.stage.errors import DataError
from tests.support.data_stage import EVAL, SFT, file_source, numbered, read, recipe, report, rows, run, sets, write_rows

DEEP = 100_000
GOOD = numbered(30)


def accounted(out: Path, bad: int) -> None:
    """Every good row is in a file, or in the test split, and every bad one is listed."""
    (counts,) = report(out)["sets"]["sft"]["sources"].values()
    unreadable = report(out)["sources"]["mine"]["unreadable"]
    assert counts["read"] + unreadable == len(GOOD) + bad
    assert counts["kept"] + counts["in the test split"] == len(GOOD)
    assert counts["rejected"] + unreadable == bad == len(read(out / "rejects.jsonl"))


def strictly(path: Path) -> list[Any]:
    """Rows of a JSONL file, by the standard alone."""

    def none(constant: str) -> None:
        raise AssertionError(f"{path}: {constant}")

    return [json.loads(line, parse_constant=none) for line in path.read_text(encoding="utf-8").splitlines()]


def line(**values: str) -> bytes:
    """A line of JSON whose values are written as they are."""
    pairs = {"question": '"Q?"', "answer": '"A."'} | values
    return ("{" + ", ".join(f'"{key}": {value}' for key, value in pairs.items()) + "}").encode()


JSONL = [
    (line(answer="NaN"), "NaN is no number and not JSON"),
    (line(answer="Infinity"), "Infinity is no number"),
    (line(score="-Infinity"), "-Infinity is no number"),
    (line(answer="1e999"), "'answer' is inf, which is no number"),
    (line(extra='{"score": NaN}'), "NaN is no number"),
    (b'{"question": "Q?", "answer": "first", "answer": "second"}', "the key 'answer' stands twice"),
    (line(extra='[{"a": 1, "b": 2, "a": 1}]'), "the key 'a' stands twice"),
    (line(answer=r'"Valve 11 is open \ud83d"'), r"'answer' holds half of a surrogate pair (U+D83D)"),
    (line(answer=r'"\udc4d is open"'), "(U+DC4D)"),
    (line(extra=r'{"half \ud83d": 1}'), "'extra' holds half of a surrogate pair"),
    (b'{"question": "Q?", "answer": "A.", "half \\ud83d": 1}', "'a key' holds half of a surrogate pair"),
    (line(answer="[" * DEEP + "]" * DEEP), "nested too deep"),
    (line(extra='{"a": ' * DEEP + "1" + "}" * DEEP), "nested too deep"),
    (line(extra="[" * 500 + "]" * 500), "nested more than 64 deep"),
    (line(answer="9" * 5000), "a number is too long"),
    (b"[1, 2]", "not a JSON object"),
    (b'"text"', "not a JSON object"),
    (b"null", "not a JSON object"),
    (line()[:-4], "is the line cut off?"),
    (line(answer='"caf\\"e').replace(b"caf", b"caf\xe9"), "not UTF-8 at byte"),
    (line()[:-1] + b",}", "not JSON"),
    (line() + line(), "not JSON"),
    (line().replace(b'"', b"'"), "not JSON"),
    (line(answer='"tab\tinside"'), "not JSON"),
    (b"\xff\xfe{\x00}\x00", "not UTF-8 at byte 1"),
    (b"{}", "no column 'question'"),
    (line(answer="null"), "'answer' is null"),
    (line(answer="true"), "content' is bool, not text"),
    (line(answer='{"a": 1}'), "content' is dict, not text"),
    (line(answer=r'"\u0000\ufeff"'), "content' is empty"),
]


@pytest.mark.parametrize(("bad", "reason"), JSONL, ids=range(len(JSONL)))
def test_bad_lines_of_jsonl(workspace: Path, bad: bytes, reason: str) -> None:
    good = [json.dumps(row).encode() for row in GOOD]
    Path("rows.jsonl").write_bytes(b"\n".join([*good[:7], bad, *good[7:]]))
    out = run(workspace, recipe())
    (reject,) = strictly(out / "rejects.jsonl")
    assert (reject["file"], reject["line"]) == ("rows.jsonl", 8)
    assert reason in reject["reason"]
    accounted(out, 1)


def test_whole_emojis_and_odd_but_good_lines_are_read(workspace: Path) -> None:
    odd = [
        line(question='"1?"', answer=r'"open \ud83d\udc4d"'),
        line(question='"2?"', answer='"one\u2028two\u0085three"'),
        line(question='"3?"', answer=r'"null \u0000 inside"'),
        line(question='"4?"', answer="12345678901234567890123"),
    ]
    Path("rows.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(odd) + b"\r\n\r\n" + odd[0].replace(b"1?", b"5?"))
    out = run(workspace, recipe(split={"validation": 0.5, "test": 0.0}, max_bad_share=0.0))
    found = {m[0]["content"]: m[1]["content"] for m in (row["messages"] for f in ("train", "validation")
             for row in read_utf8(out / f"sft/{f}.jsonl"))}  # fmt: skip
    assert found == {
        "1?": "open 👍", "2?": "one\u2028two\u0085three", "3?": "null  inside", "4?": "12345678901234567890123",
        "5?": "open 👍",
    }  # fmt: skip


def read_utf8(path: Path) -> list[dict[str, Any]]:
    """Rows by line feeds alone, which is what JSONL's readers go by."""
    return [json.loads(text) for text in path.read_bytes().decode().split("\n") if text]


def turns(**last: Any) -> dict[str, Any]:
    """A conversation whose last message has these keys."""
    said = {"role": "assistant", "content": "It is full."} | last
    return {"messages": [{"role": "user", "content": "How full is tank 0?"}, said]}


CALL = [{"id": "1", "type": "function", "function": {"name": "level", "arguments": "{}"}}]
MESSAGES = [
    (turns(tool_calls=CALL), "'tool_calls', which would be lost"),
    (turns(tool_calls=CALL, content=None), "'tool_calls', which would be lost"),
    (turns(function_call={"name": "level"}), "'function_call', which would be lost"),
    (turns(reasoning_content="Tanks leak."), "'reasoning_content', which would be lost"),
    (turns(thinking="Tanks leak."), "'thinking', which would be lost"),
    (turns(refusal="I cannot.", content=None), "'refusal', which would be lost"),
    (turns(masked=True), "'masked', which would be lost"),
    (turns(weight=0.5), "'weight' 0.5; only 0, 1, false and true"),
    (turns(weight=2), "'weight' 2; only 0"),
    (turns(loss="false"), "'loss' 'false'; only 0"),
    (turns(weight=1, train=False), "'weight' and 'train' contradict each other"),
    (turns(weight=0), "weight 0 on every message"),
    (turns(role="user", train=True), "the user with 'train' 1; only the assistant's"),
    (turns(role="tool"), "has the role 'tool'"),
    (turns(role=["assistant"]), "has the role ['assistant']"),
    (turns(content=None), "content' is NoneType, not text"),
    (turns(content=[{"type": "text", "text": "Full."}]), "content' is list, not text"),
    ({"messages": ["How full is tank 0?", "Full."]}, "a message without role and content"),
    ({"messages": json.dumps(turns()["messages"])}, "'messages' is not a list of messages"),
    ({"messages": []}, "'messages' is not a list of messages"),
]


@pytest.mark.parametrize(("bad", "reason"), MESSAGES, ids=range(len(MESSAGES)))
def test_bad_messages(workspace: Path, bad: dict[str, Any], reason: str) -> None:
    good = [
        {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
        for row in GOOD
    ]
    write_rows(workspace, [*good, bad])
    out = run(workspace, recipe(sets=sets(sft=({"messages": "{messages}"}, False))))
    (reject,) = strictly(out / "rejects.jsonl")
    assert reject["line"] == 31
    assert reason in reject["reason"]
    accounted(out, 1)


CSV: list[tuple[str | bytes, dict[int, str]]] = [
    ('"He said "hi"",b', {9: "not CSV"}),
    ('"quoted" and not,b', {9: "not CSV"}),
    ('opened,"and never closed', {9: "not CSV"}),
    ('"opened', {9: "not CSV"}),
    ("short", {9: "has 1 fields"}),
    ("long,b,c", {9: "has 3 fields"}),
    (b"caf\xe9,b", {9: "not UTF-8 at byte 4"}),
    (b'two,"lines\nof caf\xe9"', {10: "not UTF-8 at byte 7"}),
    ('"He said "hi" to\nme, ok\nand left",b', {9: "not CSV", 10: "inside the quotes", 11: "inside the quotes"}),
    ('two,"lines\nof, text",and more', {9: "has 3 fields", 10: "inside the quotes that line 9 opens"}),
    (
        'bad,"He said "hi" to\nno comma here\nok,"and then',
        {9: "not CSV", 10: "inside the quotes", 11: "inside the quotes"},
    ),
    ("\n \n\t", {}),
    ("a\rb,c", {9: "has 1 fields"}),
]


@pytest.mark.parametrize(("bad", "reasons"), CSV, ids=range(len(CSV)))
def test_bad_records_of_csv(workspace: Path, bad: str | bytes, reasons: dict[int, str]) -> None:
    good = [f'{row["question"]},"{row["answer"]}"'.encode() for row in GOOD]
    broken = bad if isinstance(bad, bytes) else bad.encode()
    Path("rows.csv").write_bytes(b"\r\n".join([b"question,answer", *good[:7], broken, *good[7:]]))
    out = run(workspace, recipe(sources={"mine": file_source("rows.csv")}))
    if b"\r" in broken:  # a carriage return ends a line: here the second half is a row of its own
        (counts,) = report(out)["sets"]["sft"]["sources"].values()
        assert (counts["read"], len(read(out / "rejects.jsonl"))) == (31, 1)
        return
    assert {r["line"] for r in read(out / "rejects.jsonl")} == set(reasons)
    assert all(reasons[r["line"]] in r["reason"] for r in read(out / "rejects.jsonl"))
    accounted(out, len(reasons))


def test_csv_fields_of_any_length_with_quotes_blank_lines_and_line_ends(workspace: Path) -> None:
    long = 'Report 7 lists, ""as ever"",\nits pumps.\n\n' + "pump " * 30_000
    text = "question,answer\r\n" + "".join(
        f'{row["question"]},"{row["answer"]}\n\n{long}{i}"\r\n' for i, row in enumerate(GOOD)
    )
    Path("rows.csv").write_text(text, encoding="utf-8", newline="")
    out = run(workspace, recipe(sources={"mine": file_source("rows.csv")}, max_bad_share=0.0))
    accounted(out, 0)
    said = read(out / "sft/train.jsonl")[0]["messages"][1]["content"]
    assert '\n\nReport 7 lists, "as ever",\nits pumps.\n\npump pump' in said, "a paragraph stays one"
    assert len(said) > 150_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"question,answer,answer\na,b,c\n", r"rows\.csv: the header names 'answer' more than once"),
        (b'question,"answer\na,b\n', r"rows\.csv:1: the header is not CSV"),
        (b"qu\xe9stion,answer\na,b\n", r"rows\.csv:1: the header is not UTF-8"),
        (b"question;answer\na;b\n", r"rows\.csv: semicolons stand between its columns"),
        (b"question,answer\n", r"rows\.csv: empty, not one row"),
        (b" \n\n", r"rows\.csv: empty, not one row"),
        (b"", r"rows\.csv: empty, not one row"),
    ],
)
def test_csv_without_a_header_to_go_by(workspace: Path, content: bytes, message: str) -> None:
    Path("rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        run(workspace, recipe(sources={"mine": file_source("rows.csv")}))


def parquet_rows(workspace: Path, table: Any, **template: Any) -> Path:
    """Run the stage on a Parquet file of this table."""
    from pyarrow import parquet

    parquet.write_table(table, "rows.parquet")
    named = {"sft": {"near_duplicates": False, "rows": [rows("mine", SFT | template)]}}
    return run(workspace, recipe(sources={"mine": file_source("rows.parquet")}, sets=named))


def table_of(**extra: Any) -> Any:
    """The good rows and one more as a table, with further columns."""
    import pyarrow as pa

    items = [*GOOD, {"question": "Q?", "answer": "A."}]
    columns: dict[str, Any] = {name: [row[name] for row in items] for name in ("question", "answer")}
    return pa.table(columns | extra)


def test_parquet_values_become_text_or_are_refused_by_name(workspace: Path) -> None:
    """Dates and decimals are text from here on; bytes, and an image is a mapping of them, are not."""
    import pyarrow as pa

    start = datetime.datetime(2024, 1, 1)
    table = table_of(
        created=[start + datetime.timedelta(hours=i) for i in range(31)],
        price=[decimal.Decimal("1.50")] * 31,
        day=[start.date()] * 31,
        took=[datetime.timedelta(minutes=90)] * 31,
        scan=[{"bytes": b"\x89PNG", "path": None}] * 31,
        kind=pa.array(["a", "b"] * 15 + ["a"]).dictionary_encode(),
        tags=pa.array([["x", "y"]] * 31, pa.large_list(pa.large_string())),
        pairs=pa.array([[("k", 1)]] * 31, pa.map_(pa.string(), pa.int64())),
    )
    kept = {name: f"{{{name}}}" for name in ("created", "price", "day", "took", "kind", "tags", "pairs")}
    out = parquet_rows(workspace, table, **kept, said="{created}: {price}")
    row = read(out / "sft/train.jsonl")[0]
    assert row["created"].startswith("2024-01-0")
    assert row["said"] == f"{row['created']}: 1.50"
    assert (row["price"], row["day"], row["took"]) == ("1.50", "2024-01-01", "1:30:00")
    assert (row["kind"] in "ab", row["tags"], row["pairs"]) == (True, ["x", "y"], {"k": 1})
    with pytest.raises(DataError, match=r"rows\.parquet:1: 'scan\.bytes' is bytes, which JSON cannot hold"):
        parquet_rows(workspace, table, scan="{scan}")


def test_parquet_messages_whose_other_keys_are_null(workspace: Path) -> None:
    import pyarrow as pa

    filled = [
        [
            {"role": "user", "content": row["question"], "tool_calls": None, "weight": None},
            {"role": "assistant", "content": row["answer"], "tool_calls": None, "weight": None},
        ]
        for row in GOOD
    ]
    from pyarrow import parquet

    parquet.write_table(pa.table({"messages": filled}), "rows.parquet")
    out = run(
        workspace,
        recipe(
            sources={"mine": file_source("rows.parquet")},
            sets=sets(sft=({"messages": "{messages}"}, False)),
            max_bad_share=0.0,
        ),
    )
    accounted(out, 0)
    assert all(set(m) == {"role", "content"} for row in read(out / "sft/train.jsonl") for m in row["messages"])


def bad_parquet() -> dict[str, tuple[Callable[[], Any], dict[str, Any], str]]:
    """Name to a table whose last row alone is bad, further columns of the map, and the reason."""
    import pyarrow as pa

    text = [row["answer"] for row in GOOD]
    invalid = pa.Array.from_buffers(
        pa.string(), 31, pa.array([*(t.encode() for t in text), b"caf\xe9"], pa.binary()).buffers()
    )
    years = pa.array([0] * 30 + [2**60], pa.timestamp("us"))
    floats = [1.5] * 30 + [float("nan")]
    return {
        "text that is no UTF-8": (lambda: table_of(answer=invalid), {}, "the value of 'answer' cannot be read"),
        "a year beyond 9999": (lambda: table_of(at=years), {"at": "{at}"}, "the value of 'at' cannot be read"),
        "no number": (lambda: table_of(score=floats), {"score": "{score}"}, "'score' is nan, which is no number"),
        "no number in a text": (lambda: table_of(score=floats), {"note": "Score {score}"}, "'score' is nan"),
        "a null": (lambda: table_of(note=["x"] * 30 + [None]), {"note": "{note}"}, "'note' is null"),
        "an empty text": (lambda: table_of(answer=[*text, ""]), {}, "content' is empty"),
        "half a list": (
            lambda: table_of(tags=[["x"]] * 30 + [None]), {"note": "{tags:(x)}"}, "'tags' is null",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(bad_parquet()))
def test_bad_rows_of_parquet(workspace: Path, name: str) -> None:
    make, template, reason = bad_parquet()[name]
    if name == "half a list":  # the others are lists, which stand in no text either
        with pytest.raises(DataError, match=r"'tags' is list, and the map puts it into a text"):
            parquet_rows(workspace, make(), **template)
        return
    out = parquet_rows(workspace, make(), **template)
    (reject,) = strictly(out / "rejects.jsonl")
    assert (reject["file"], reject["line"]) == ("rows.parquet", 31)
    assert reason in reject["reason"]
    accounted(out, 1)


def test_parquet_files_that_are_none(workspace: Path) -> None:
    import pyarrow as pa

    twice = pa.Table.from_arrays(
        [pa.array(["Q?"]), pa.array(["A."]), pa.array(["B."])], ["question", "answer", "answer"]
    )
    with pytest.raises(DataError, match=r"rows\.parquet: more than one column is called 'answer'"):
        parquet_rows(workspace, twice)
    with pytest.raises(DataError, match=r"rows\.parquet: empty, not one row"):
        parquet_rows(workspace, table_of()[:0])
    for content in (b"", b"PAR1", b"question,answer\n"):
        Path("rows.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"rows\.parquet: not a readable Parquet file"):
            run(workspace, recipe(sources={"mine": file_source("rows.parquet")}))


KINDS = [
    ([1, 2], "three", "'level' is text, but a whole number in rows.jsonl:1"),
    (["one"], 2, "'level' is a whole number, but text in rows.jsonl:1"),
    ([1, 0.5], True, "'level' is true or false, but a number in rows.jsonl:1"),
    ([["a"]], "a", "'level' is text, but a list in rows.jsonl:1"),
    ([["a"]], [1], "'level[…]' is a whole number, but text"),
    ([{"by": "us"}, {"at": 1}], {"by": 3}, "'level.by' is a whole number, but text"),
    ([1], ["a", 1], "'level[1]' is a whole number, but text in 'level[0]'"),
    ([1], 2**63, "'level' is a whole number of more than 64 bits"),
    ([2**53 + 1], 0.5, "'level' is a number, but a whole number beyond 2**53"),
    ([1], float("nan"), "NaN is no number"),
]


@pytest.mark.parametrize(("levels", "odd", "reason"), KINDS, ids=range(len(KINDS)))
def test_a_column_holds_values_of_one_kind(workspace: Path, levels: list[Any], odd: Any, reason: str) -> None:
    items = [row | {"level": levels[i % len(levels)]} for i, row in enumerate(GOOD)]
    write_rows(workspace, [*items, {"question": "Q?", "answer": "A.", "level": odd}])
    out = run(workspace, recipe(sets=sets(sft=(SFT | {"level": "{level}"}, False))))
    (reject,) = strictly(out / "rejects.jsonl")
    assert reject["line"] == 31
    assert reason in reject["reason"]
    accounted(out, 1)
    from datasets import Dataset

    assert len(Dataset.from_list(read(out / "sft/train.jsonl"))) > 1, "what the trainers keep their rows in takes it"


@pytest.mark.parametrize("value", [True, ["a"], {"a": 1}])
def test_only_text_and_numbers_stand_inside_a_text(workspace: Path, value: Any) -> None:
    write_rows(workspace, [*({**row, "note": i} for i, row in enumerate(GOOD)), GOOD[0] | {"note": value}])
    template = SFT | {"note": "Note {note}"}
    out = run(workspace, recipe(sets=sets(sft=(template, False))))
    (reject,) = read(out / "rejects.jsonl")
    assert f"'note' is {type(value).__name__}, and the map puts it into a text" == reject["reason"]


def test_a_group_that_took_no_part_in_the_match_is_a_bad_row(workspace: Path) -> None:
    write_rows(workspace, [*(row | {"note": f"no. {i}"} for i, row in enumerate(GOOD)), GOOD[0] | {"note": "no."}])
    out = run(workspace, recipe(sets=sets(sft=(SFT | {"note": r"Note {note:no\.( \d+)?}"}, False))))
    (reject,) = read(out / "rejects.jsonl")
    assert "'note' does not match" in reject["reason"]
    accounted(out, 1)


def test_dates_in_a_map_are_text(workspace: Path) -> None:
    write_rows(workspace, GOOD)
    out = run(workspace, recipe(sets=sets(sft=(SFT | {"since": datetime.date(2024, 1, 1)}, False))))
    assert read(out / "sft/train.jsonl")[0]["since"] == "2024-01-01"


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pipe, "a named pipe, not a file; write its content to a file first"),
        (listening, "a socket, not a file"),
        (Path.mkdir, "a folder, not a file; name one file in it"),
        (lambda path: path.symlink_to("rows.jsonl"), "a symbolic link that leads back to itself"),
        (lambda path: path.symlink_to("gone.jsonl"), "a symbolic link to gone.jsonl, which does not exist"),
        (lambda path: path.symlink_to("/dev/null"), "a device, not a file"),
        (lambda path: None, "no such file; `dvc pull`"),
    ],
)
def test_paths_that_are_no_file(workspace: Path, make: Callable[[Path], None], message: str) -> None:
    make(workspace / "rows.jsonl")
    with pytest.raises(DataError) as e:
        run(workspace, recipe())
    assert str(e.value).startswith(f"rows.jsonl: {message}")
    assert "\n" not in str(e.value)
    assert "did you mean" not in str(e.value)


@pytest.mark.parametrize("name", ["a" * 300 + ".jsonl", "rows.jsonl/inner.jsonl", "nul\x00.jsonl"])
def test_paths_that_cannot_be(workspace: Path, name: str) -> None:
    from tasks.ingestion.sources import FileSource
    from tasks.ingestion.sources import read as read_source

    write_rows(workspace, GOOD)
    with pytest.raises(DataError, match=r"no path|no such file"):
        read_source("mine", FileSource(file=Path(name), sha256=None, licence="CC0-1.0"), Path())


def test_a_map_may_not_name_columns_that_would_do_nothing(workspace: Path) -> None:
    write_rows(workspace, [row | {"tools": [], "weight": 1, "said": "x"} for row in GOOD])
    for template, message in (
        (SFT | {"tools": "{tools}"}, "nothing looks at 'tools' when 'sft' is learnt"),
        (SFT | {"weight": "{weight}"}, "nothing looks at 'weight'"),
        (SFT | {"completion": "{said}"}, "'completion' has no place beside messages"),
        (SFT | {"prompt": "{said}"}, "'prompt' has no place beside messages"),
    ):
        with pytest.raises(DataError, match=message):
            run(workspace, recipe(sets=sets(sft=(template, False))))
    with pytest.raises(DataError, match="'completion' has no place beside answer, question"):
        run(workspace, recipe(sets=sets(eval_quiz=(EVAL | {"completion": "{said}"}, False))))


def test_what_nothing_looks_at_is_named_once_a_file(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [
        {"messages": [{"role": "user", "content": row["question"], "name": "Ann", "date": None},
                      {"role": "assistant", "content": row["answer"], "name": "Bob"}],
         "tools": [{"name": "level"}] if i < 3 else None, "weight": 0, "topic": "x"}
        for i, row in enumerate(GOOD)
    ]  # fmt: skip
    write_rows(workspace, items)
    with caplog.at_level("WARNING", logger="polm"):
        out = run(workspace, recipe(sets=sets(sft=({"messages": "{messages}"}, False))))
    (said,) = (r.getMessage() for r in caplog.records if "looks at" in r.getMessage())
    assert said.startswith(
        "rows.jsonl: nothing in set 'sft' looks at column 'tools' (3 rows), column 'weight' (30 rows)"
    )
    assert said.endswith("message key 'name' (30 rows)")
    expected = {"column 'tools'": 3, "column 'weight'": 30, "message key 'name'": 30}
    assert report(out)["sets"]["sft"]["ignored"] == {"mine": expected}
