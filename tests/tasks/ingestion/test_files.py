"""Kinds of files: JSON arrays, TSV, Arrow, data sets saved to disk, and compressed ones, whole and broken."""

import gzip
import json
from pathlib import Path

import pytest

from tasks.ingestion.files import content_digest, read_file
from tasks.ingestion.sources import FileSource, read
from tasks.stage.errors import DataError

ROWS = [{"question": "one?", "answer": "1"}, {"question": "two\nlines?", "answer": 'a "b"'}]


def rows(path: str) -> list[dict[str, str]]:
    lines, rejects = read_file(Path(path), path)
    assert rejects == []
    return [line.row for line in lines]


def compress(path: str, suffix: str) -> str:
    import pyarrow

    content = Path(path).read_bytes()
    if suffix == ".gz":
        Path(path + suffix).write_bytes(gzip.compress(content))
    else:
        with pyarrow.output_stream(path + suffix, compression="zstd") as f:
            f.write(content)
    return path + suffix


def test_an_array_of_objects_over_several_lines(workspace: Path) -> None:
    Path("rows.json").write_text("\ufeff" + json.dumps(ROWS, indent=2), encoding="utf-8")
    lines, rejects = read_file(Path("rows.json"), "rows.json")
    assert [line.row for line in lines] == ROWS
    assert [line.number for line in lines] == [2, 6]
    assert rejects == []


def test_an_item_of_an_array_that_is_no_row_costs_itself(workspace: Path) -> None:
    Path("rows.json").write_text('[{"a": 1},\n{"a": NaN},\n3,\n{"a": 1, "a": 2},\n{"a": 5}]\n', encoding="utf-8")
    lines, rejects = read_file(Path("rows.json"), "rows.json")
    assert [(line.number, line.row) for line in lines] == [(1, {"a": 1}), (5, {"a": 5})]
    assert [reject.line for reject in rejects] == [2, 3, 4]
    assert "NaN is no number" in rejects[0].reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": 2', r"rows\.json:2: not JSON .*cut off"),
        ('[{"a": 1}\n{"a": 2}]', r"rows\.json:2: no comma or bracket"),
        ('[{"a": 1}', r"rows\.json:1: no comma or bracket"),
        ('[{"a": 1}]\n[]', r"rows\.json:1: there is text behind the array"),
        ('{"rows":\n [{"a": 1}]}', "neither an array of objects nor one object a line"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_broken_array_is_named_by_its_line(workspace: Path, text: str, message: str) -> None:
    Path("rows.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_file(Path("rows.json"), "rows.json")


def test_an_array_that_is_not_utf8(workspace: Path) -> None:
    Path("rows.json").write_bytes(b'[{"a": "caf\xe9"}]')
    with pytest.raises(DataError, match=r"rows\.json: not UTF-8 at byte 12"):
        read_file(Path("rows.json"), "rows.json")


def test_lines_in_a_file_called_json(workspace: Path) -> None:
    Path("rows.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    assert rows("rows.json") == ROWS


def test_tabs_part_cells_and_commas_do_not(workspace: Path) -> None:
    text = 'question\tanswer\none, two?\t1\n"two\nlines?"\t"a ""b"""\nshort\n'
    Path("rows.tsv").write_text(text, encoding="utf-8")
    lines, rejects = read_file(Path("rows.tsv"), "rows.tsv")
    assert [line.row for line in lines] == [{"question": "one, two?", "answer": "1"}, ROWS[1]]
    assert [(reject.line, reject.reason.split(",")[0]) for reject in rejects] == [(5, "has 1 fields")]


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_in_both_of_its_formats(workspace: Path, form: str) -> None:
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    make = pyarrow.ipc.new_file if form == "file" else pyarrow.ipc.new_stream
    with make("rows.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    lines, _ = read_file(Path("rows.arrow"), "rows.arrow")
    assert [(line.number, line.row) for line in lines] == [(1, ROWS[0]), (2, ROWS[1])]
    whole = Path("rows.arrow").read_bytes()
    Path("half.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half\.arrow: not a readable Arrow file"):
        read_file(Path("half.arrow"), "half.arrow")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_of_every_kind(workspace: Path, suffix: str) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(ROWS)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    Path("rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    Path("rows.csv").write_text('question,answer\none?,1\n"two\nlines?","a ""b"""\n', encoding="utf-8")
    parquet.write_table(table, "rows.parquet")
    with pyarrow.ipc.new_stream("rows.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.arrow"):
        assert rows(compress(name, suffix)) == ROWS, name


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_off_or_is_none(workspace: Path, suffix: str) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps({"n": i * 7919}) + "\n" for i in range(5000)), encoding="utf-8")
    whole = Path(compress("rows.jsonl", suffix)).read_bytes()
    Path(f"half.jsonl{suffix}").write_bytes(whole[: len(whole) // 2])
    Path(f"none.jsonl{suffix}").write_bytes(b'{"a": 1}\n')
    for name in ("half", "none"):
        with pytest.raises(DataError, match=rf"{name}\.jsonl{suffix}: cannot be (read|decompressed)"):
            read_file(Path(f"{name}.jsonl{suffix}"), f"{name}.jsonl{suffix}")


def test_a_data_set_saved_to_disk_is_a_source_and_is_pinned_by_its_files(workspace: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list(ROWS * 3)
    data.save_to_disk("saved", num_shards=2)
    source = FileSource(file=Path("saved"), sha256=content_digest(Path("saved"), "saved"), licence="CC0-1.0")
    table = read("mine", source, Path())
    assert [line.number for line in table.lines] == [1, 2, 3, 4, 5, 6]
    assert [line.row for line in table.lines] == ROWS * 3
    shard = max(Path("saved").glob("*.arrow"))
    shard.write_bytes(min(Path("saved").glob("*.arrow")).read_bytes())
    with pytest.raises(DataError, match="the recipe pins"):
        read("mine", source, Path())


def test_a_folder_that_is_none_and_one_of_several_splits(workspace: Path) -> None:
    import datasets

    Path("empty").mkdir()
    with pytest.raises(DataError, match="empty: a folder, not a file; name one file in it"):
        read("mine", FileSource(file=Path("empty"), sha256=None, licence="CC0-1.0"), Path())
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk("both")
    with pytest.raises(DataError, match="both: a data set of several splits; name one of them: both/train"):
        read("mine", FileSource(file=Path("both"), sha256=None, licence="CC0-1.0"), Path())
    assert rows("both/train") == ROWS
    (Path("both/train") / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"names data-00000-of-00001\.arrow, which is not there"):
        read_file(Path("both/train"), "both/train")
