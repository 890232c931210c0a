"""Pictures in the data stage: from files, Parquet and folders of `datasets`, one bad picture costs one row."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from ruamel.yaml import YAML

from tasks.ingestion.media_columns import Blob
from tasks.ingestion.media_files import write_archive
from tasks.ingestion.pictures import Pictures, PictureSettings
from tasks.multimodal.images import Archive
from tasks.stage.errors import ConfigError, DataError
from tests.conftest import REPO
from tests.support.data_stage import EVAL, SFT, file_source, read, report, rows, run, write_rows
from tests.support.drawings import ASKED, BOUNDS, SHOWN, asked, bad_files, drawn, encoded, plain, save, showing, turned

GOOD = 12
BAD = bad_files()
STREAMED = "streamed"


def good(folder: Path, count: int = GOOD) -> list[dict[str, Any]]:
    """Rows with a picture each, as files of the folder."""
    return [row | {"picture": save(folder, f"p{i}.png", encoded(drawn(i)))} for i, row in enumerate(asked(count))]


def written(out: Path, name: str = "sft") -> list[dict[str, Any]]:
    """The rows of both files of a training set."""
    return [row for split in ("train", "validation") for row in read(out / name / f"{split}.jsonl")]


def reasons(out: Path) -> dict[int, str]:
    """Line to reason of every reject."""
    return {row["line"]: row["reason"] for row in read(out / "rejects.jsonl")}


def as_jsonl(folder: Path, items: list[tuple[dict[str, Any], str, bytes]]) -> dict[str, Any]:
    write_rows(folder, [row | {"picture": save(folder, name, content)} for row, name, content in items])
    return showing()


def parquet(make: Callable[[str, bytes], Any], template: dict[str, Any] = SHOWN) -> Any:
    def write(folder: Path, items: list[tuple[dict[str, Any], str, bytes]]) -> dict[str, Any]:
        import pyarrow
        from pyarrow import parquet as files

        table = [row | {"picture": make(name, content)} for row, name, content in items]
        files.write_table(pyarrow.Table.from_pylist(table), folder / "rows.parquet")
        return showing(template, sources={"mine": file_source("rows.parquet")})

    return write


def hub_source(name: str, streaming: bool = False) -> dict[str, Any]:
    base = {"hub": name, "revision": "main", "config": None, "split": "train", "rows": None, "licence": "MIT"}
    return base | {"streaming": streaming}


def as_hub(nested: bool, streaming: bool) -> Any:
    def write(folder: Path, items: list[tuple[dict[str, Any], str, bytes]]) -> dict[str, Any]:
        import datasets

        kind = datasets.List(datasets.Image()) if nested else datasets.Image()
        values = [{"bytes": content, "path": name} for _, name, content in items]
        columns: dict[str, Any] = {key: [row[key] for row, _, _ in items] for key in ("question", "answer")}
        columns["picture"] = [[value] for value in values] if nested else values
        features = {"question": datasets.Value("string"), "answer": datasets.Value("string"), "picture": kind}
        data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        (folder / "someone/pictures").mkdir(parents=True)
        data.to_parquet(folder / "someone/pictures/train.parquet")
        return showing(sources={"mine": hub_source("someone/pictures", streaming)})

    return write


def as_image_folder(folder: Path, items: list[tuple[dict[str, Any], str, bytes]]) -> dict[str, Any]:
    named = [{"file_name": save(folder / "someone/files/train", name, content), **row} for row, name, content in items]
    write_rows(folder / "someone/files/train", named, "metadata.jsonl")
    template = SHOWN | {"images": ["{image}"]}
    return showing(template, sources={"mine": hub_source("someone/files")})


SOURCES: dict[str, Any] = {
    "jsonl": as_jsonl,
    "bytes": parquet(lambda name, content: content),
    "structs": parquet(lambda name, content: {"bytes": content, "path": name}),
    "lists": parquet(lambda name, content: [{"bytes": content, "path": name}]),
    "lists of bytes": parquet(lambda name, content: [content], SHOWN | {"images": "{picture}"}),
    "hub": as_hub(nested=False, streaming=False),
    "hub lists": as_hub(nested=True, streaming=False),
    "hub streamed": as_hub(nested=True, streaming=True),
    "image folder": as_image_folder,
}
NAMELESS = ("bytes", "lists of bytes")
"""Sources whose pictures come without a name, and so may be called nothing that they are not."""


@pytest.fixture
def folder(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder, with a cache of `datasets` of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workspace / "cache")
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", workspace / "cache/downloads")
    return workspace


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_bad_picture_is_a_bad_row_that_is_named(folder: Path, source: str) -> None:
    bad = {
        name: value
        for name, value in BAD.items()
        if not (source in NAMELESS and name == "really_a.png")
        and not (source == "image folder" and name == "modern.avif")
    }
    items = [(row, f"p{i}.png", encoded(drawn(i))) for i, row in enumerate(asked(GOOD))]
    items += [(row, name, bad[name][0]) for row, name in zip(asked(len(bad), GOOD), bad, strict=True)]
    out = run(folder, SOURCES[source](folder, items))
    asking = {row["question"]: name for (row, name, _) in items}
    rejected = {asking[reject["row"]["question"]]: reject for reject in read(out / "rejects.jsonl")}
    assert rejected.keys() == bad.keys()
    for name, reject in rejected.items():
        assert bad[name][1] in reject["reason"], name
        assert name in reject["reason"] or source in NAMELESS
        assert reject["file"]
        assert reject["line"] > 0
        assert str(folder) not in json.dumps(reject), "a path of this machine, another one with every run"
    assert len(written(out)) == GOOD
    assert report(out)["pictures"]["files"] == GOOD
    assert {path.name for path in out.iterdir()} == {"sft", "media.zip", "rejects.jsonl", "report.json"}


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_what_a_person_sees_is_kept_and_counted(folder: Path, source: str) -> None:
    odd = {
        "c.jpg": (encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG"), (255, 0, 0), {"CMYK"}),
        "e.jpg": (turned(3), (0, 0, 255), {"turned by EXIF"}),
        "t.png": (encoded(plain((9, 9, 9, 0), "RGBA")), (255, 255, 255), {"transparency"}),
        "p.png": (encoded(plain((0, 200, 0)).quantize(4)), (0, 200, 0), {"palette"}),
        "b.png": (encoded(plain(0, "1")), (0, 0, 0), {"1 bit"}),
        "s.png": (encoded(Image.fromarray(np.full((9, 9), 128 * 257, dtype=np.uint16))), (128,) * 3, {"16 bit"}),
        "j.jpg": (encoded(plain((0, 90, 90)), "JPEG"), (0, 90, 90), set()),
    }
    items = [(row, name, odd[name][0]) for row, name in zip(asked(len(odd)), odd, strict=True)]
    items += [(row, f"p{i}.png", encoded(drawn(i))) for i, row in enumerate(asked(GOOD, len(odd)))]
    out = run(folder, SOURCES[source](folder, items))
    assert read(out / "rejects.jsonl") == []
    seen = {row["messages"][0]["content"]: row["images"] for row in written(out)}
    archive = Archive(out)
    for row, name, _ in items[: len(odd)]:
        (picture,) = seen[row["question"]]
        assert np.allclose(archive.image(picture).getpixel((1, 1)), odd[name][1], atol=8), name
    assert report(out)["pictures"]["converted"] == {change: 1 for _, _, changes in odd.values() for change in changes}


def test_names_that_lead_nowhere_are_bad_rows(folder: Path) -> None:
    inner = folder / "pictures"
    items = [row | {"picture": row["picture"]} for row in good(inner)]
    outside = encoded(drawn(99))
    save(folder, "outside.png", outside)
    (inner / "link.png").symlink_to(folder / "outside.png")
    (inner / "loop.png").symlink_to("loop.png")
    (inner / "gone.png").symlink_to("nothing.png")
    (inner / "folder.png").mkdir()
    os.mkfifo(inner / "pipe.png")
    odd: list[tuple[Any, str]] = [
        ("../outside.png", "lies outside pictures; put it there, or set the source's `media`"),
        (str(folder / "outside.png"), "lies outside pictures"),
        ("/etc/hostname", "lies outside pictures"),
        ("link.png", "lies outside pictures"),
        ("loop.png", "is no path that can be followed"),
        ("gone.png", "is not in pictures"),
        ("missing.png", "the picture missing.png is not in pictures"),
        ("p0.png/inner.png", "is not in pictures"),
        ("folder.png", "is a folder, not a file"),
        (".", "is a folder, not a file"),
        ("pipe.png", "is a pipe or device, not a file"),
        ("https://example.org/a.png", "is an address; download it"),
        ("file:///etc/hostname", "is an address"),
        ("data:image/png;base64," + "A" * 100_000, "is written out in its address"),
        ("nul\x00.png", "is no path that can be followed"),
        ("x" * 5000 + ".png", "is no path (File name too long)"),
        (" ", "the name of a picture is empty"),
        ("", "the name of a picture is empty"),
        (None, "'picture' is null, and should be a picture"),
        (7, "a picture is int; expected the name of a file, or bytes"),
        (True, "a picture is bool"),
        ([], "the row has no picture, only an empty list"),
        ([["p0.png"]], "a picture is list"),
        ([None], "a picture is null"),
        ({"url": "p0.png"}, "a picture is dict"),
    ]
    items += [row | {"picture": value} for row, (value, _) in zip(asked(len(odd), GOOD), odd, strict=True)]
    lines = [*items, '{"question": "Q?", "answer": "A.", "picture": "half \\ud83d.png"}', asked(1, 99)[0]]
    write_rows(folder, lines)
    out = run(folder, showing(sources={"mine": file_source("rows.jsonl") | {"media": "pictures"}}))
    found = reasons(out)
    for line, (value, reason) in enumerate(odd, GOOD + 1):
        assert reason in found[line], value
        assert len(found[line]) < 300
    last = GOOD + len(odd)
    assert "half of a surrogate pair" in found[last + 1]
    assert found[last + 2] == "no column 'picture'"
    assert len(found) == len(odd) + 2
    assert all(row["file"] == "rows.jsonl" for row in read(out / "rejects.jsonl"))
    with zipfile.ZipFile(out / "media.zip") as archive:
        assert len(archive.namelist()) == GOOD
        assert hashlib.sha256(outside).hexdigest()[:32] + ".png" not in archive.namelist()


def test_names_that_are_no_utf8_come_from_generators_too(folder: Path) -> None:
    save(folder, "p0.png", encoded(drawn(0)))
    code = "def rows():\n    for i in range(9):\n        yield {'question': f'Q{i}?', 'answer': f'A{i}.', 'picture': "
    (folder / "generators.py").write_text(code + "'p0.png' if i < 6 else ['\\ud800.png', '\\udcff.png', b''][i - 6]}\n")
    made = {"generator": "generators.rows", "options": {}, "licence": "MIT"}
    template = SHOWN | {"group": "{question}"}
    out = run(folder, showing(template, sources={"mine": made}, split={"validation": 0.0, "test": 0.0}) | {"sets": {
        "eval:all": {"near_duplicates": False, "rows": [rows("mine", ASKED, "published")]}}})  # fmt: skip
    assert sorted(reasons(out)) == [7, 8, 9]
    assert "is no path that can be followed" in reasons(out)[7]
    assert "is not in" in reasons(out)[8]
    assert reasons(out)[9] == "the picture in the row has 0 bytes"


def test_a_rows_text_and_its_picture_are_checked_both(folder: Path) -> None:
    items = good(folder)
    lonely = encoded(drawn(50))
    items.append({"question": "Fine picture?", "answer": None, "picture": save(folder, "lonely.png", lonely)})
    items.append({"question": "Bad picture?", "answer": "Yes.", "picture": save(folder, "bad.png", b"")})
    write_rows(folder, items)
    out = run(folder, showing())
    assert reasons(out) == {GOOD + 1: "'answer' is null", GOOD + 2: "the picture bad.png has 0 bytes"}
    assert report(out)["pictures"]["files"] == GOOD
    with pytest.raises(
        DataError, match=r"2 of 14 rows are bad[^\n]*\n  rows.jsonl:13: 'answer' is null\n  rows.jsonl:14"
    ):
        run(folder, showing(max_bad_share=0.1))


def test_bytes_of_any_shape_are_rows_or_bad_rows(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet as files

    picture = encoded(drawn(0))
    binary = pyarrow.binary()
    struct = pyarrow.struct([("bytes", binary), ("path", pyarrow.string())])
    save(folder, "p1.png", encoded(drawn(1)))
    shapes: list[tuple[Any, Any, str]] = [
        (pyarrow.list_(pyarrow.list_(binary)), [[picture]], "a picture is list"),
        (pyarrow.list_(binary), [picture, None], "a picture is null"),
        (pyarrow.list_(struct), [{"bytes": picture, "path": None}, None], "a picture is null"),
        (struct, {"bytes": None, "path": None}, "a picture is null"),
        (struct, {"bytes": None, "path": "/etc/hostname"}, "lies outside"),
        (struct, {"bytes": None, "path": "p9.png"}, "is not in"),
        (struct, {"bytes": None, "path": "p1.png"}, ""),
        (struct, {"bytes": picture, "path": "../../a/b/x.png"}, ""),
        (struct, {"bytes": picture, "path": "c:\\my\\x.png"}, ""),
        (struct, {"bytes": b"", "path": "nothing.png"}, "the picture nothing.png has 0 bytes"),
        (pyarrow.struct([("bytes", binary)]), {"bytes": picture}, ""),
        (pyarrow.large_binary(), picture, ""),
        (pyarrow.int64(), 3, "a picture is int"),
    ]
    template = {key: value for key, value in ASKED.items() if key != "images"} | {"images": "{a/b: picture}"}
    for at, (kind, value, reason) in enumerate(shapes):
        row = asked(1)[0]
        fields = [("question", pyarrow.string()), ("answer", pyarrow.string()), ("a/b picture", kind), ("x", binary)]
        row |= {"a/b picture": value, "x": b"\0" * 100}
        files.write_table(pyarrow.Table.from_pylist([row], schema=pyarrow.schema(fields)), folder / "rows.parquet")
        template["images"] = "{a/b picture}"
        sets = {"eval:all": {"near_duplicates": False, "rows": [rows("mine", template, "published")]}}
        recipe = showing(sources={"mine": file_source("rows.parquet")}, sets=sets)
        if not reason:
            out = run(folder, recipe, f"out{at}")
            assert len(Archive(out).image(read(out / "eval/all.jsonl")[0]["images"][0]).getbands()) == 3
            continue
        with pytest.raises(DataError) as e:
            run(folder, recipe | {"max_bad_share": 0.0}, f"out{at}")
        assert reason in str(e.value), (kind, value)
        assert "rows.parquet:1: " in str(e.value)


def test_several_pictures_and_names_with_columns_filled_in(folder: Path) -> None:
    items = [row | {"number": i, "more": [] if i % 2 else ["m.png"]} for i, row in enumerate(asked(GOOD))]
    for i in range(GOOD):
        save(folder, f"shots/shot {i}.png", encoded(drawn(i)))
    save(folder, "m.png", encoded(drawn(50)))
    write_rows(folder, items)
    template = SFT | {"images": ["shots/shot {number}.png", "{more}"], "group": "{number}"}
    out = run(folder, showing(template, split={"validation": 0.3, "test": 0.0}) | {"pictures": BOUNDS | {"near": None},
        "sets": {"eval:all": {"near_duplicates": False, "rows": [rows("mine", EVAL | {
            "images": template["images"], "group": "{number}"}, "published")]}}})  # fmt: skip
    assert sorted(len(row["images"]) for row in read(out / "eval/all.jsonl")) == [1] * 6 + [2] * 6
    for row in read(out / "eval/all.jsonl"):
        i = int(row["question"].split()[-1].rstrip("?"))
        assert np.array_equal(np.asarray(Archive(out).image(row["images"][0])), np.asarray(drawn(i)))
        assert len(row["images"]) == 2 - i % 2


@pytest.mark.parametrize("images", [[], 5, {"a": "{picture}"}, ["{picture}", 3], None])
def test_a_map_of_pictures_that_cannot_be(folder: Path, images: Any) -> None:
    write_rows(folder, good(folder))
    with pytest.raises(DataError, match=r"sets\.sft\.rows\.0\.map: 'images' is .*; expected names of columns"):
        run(folder, showing(SFT | {"images": images}))


def test_a_recipe_of_pictures_needs_bounds_and_a_folder(folder: Path) -> None:
    write_rows(folder, good(folder))
    recipe = showing()
    with pytest.raises(DataError, match="set 'sft' has pictures, and there is no section 'pictures'"):
        run(folder, {key: value for key, value in recipe.items() if key != "pictures"})
    with pytest.raises(DataError, match=r"photos: no folder; 'media' of source 'mine'"):
        run(folder, showing(sources={"mine": file_source("rows.jsonl") | {"media": "photos"}}))
    for bounds in ({"near": 16}, {"near": -1}, {"max_pixels": 0}, {"max_bytes": 0}):
        with pytest.raises(ConfigError, match=next(iter(bounds))):
            run(folder, recipe | {"pictures": BOUNDS | bounds})


def test_a_set_may_mix_rows_with_and_without_pictures(folder: Path) -> None:
    write_rows(folder, good(folder))
    write_rows(folder, asked(GOOD, GOOD), "text.jsonl")
    sources = {"mine": file_source("rows.jsonl"), "text": file_source("text.jsonl")}
    mixed = {"sft": {"near_duplicates": True, "rows": [rows("mine", SHOWN), rows("text", SFT)]}}
    out = run(folder, showing(sources=sources, sets=mixed))
    assert sorted("images" in row for row in written(out)) == [False] * GOOD + [True] * GOOD


def test_no_picture_at_all_is_no_crash(folder: Path) -> None:
    write_rows(folder, [row | {"picture": "gone.png"} for row in asked(GOOD)])
    write_rows(folder, asked(GOOD, GOOD), "text.jsonl")
    sources = {"mine": file_source("rows.jsonl"), "text": file_source("text.jsonl")}
    mixed = {"sft": {"near_duplicates": False, "rows": [rows("mine", SHOWN), rows("text", SFT)]}}
    out = run(folder, showing(sources=sources, sets=mixed))
    assert len(written(out)) == GOOD
    facts = report(out)["pictures"]
    assert (facts["files"], facts["bytes"], facts["converted"]) == (0, 0, {})


def test_exact_duplicates_count_the_pictures(folder: Path) -> None:
    first, second = good(folder, 2)
    again = save(folder, "again.png", encoded(drawn(0), compress_level=0))
    same, other = first | {"picture": again}, first | {"picture": second["picture"]}
    write_rows(folder, [*good(folder), same, other, other])
    out = run(folder, showing())
    assert report(out)["sets"]["sft"]["sources"]["mine"]["exact duplicate"] == 2
    examples = report(out)["sets"]["sft"]["dropped"]["exact duplicate"]["examples"]
    assert [(row["line"], row["like"]) for row in examples] == [(13, "rows.jsonl:1"), (15, "rows.jsonl:14")]


def test_near_duplicates_are_looked_for_among_rows_with_the_same_pictures(folder: Path) -> None:
    said = "There are a red circle, two green squares and a thin blue line across all of the drawing{}"
    items = [
        {"question": "What do you see here?", "answer": said.format("."), "picture": f"p{i}.png"} for i in range(GOOD)
    ]
    good(folder)
    write_rows(folder, [*items, items[3] | {"answer": said.format(", I think.")}])
    sets = {"sft": {"near_duplicates": True, "rows": [rows("mine", SHOWN)]}}
    out = run(folder, showing(sets=sets))
    (example,) = report(out)["sets"]["sft"]["dropped"]["near-duplicate"]["examples"]
    assert (example["line"], example["like"]) == (13, "rows.jsonl:4")
    assert len(written(out)) == GOOD


def variants(image: Image.Image) -> list[tuple[str, bytes]]:
    """The same picture, as a person sees it, in other files."""
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    bright = ImageEnhance.Brightness(image).enhance(1.1)
    files = [encoded(image), encoded(image, "JPEG", quality=80), encoded(half), encoded(bright)]
    files += [encoded(half, "JPEG", quality=80), encoded(image, "WEBP", quality=60), encoded(image.quantize(64))]
    return list(zip(("a.png", "b.jpg", "c.png", "d.png", "e.jpg", "f.webp", "g.png"), files, strict=True))


def test_one_picture_is_on_one_side_whatever_its_file_group_and_set(folder: Path) -> None:
    items = []
    for i in range(20):
        for at, (name, content) in enumerate(variants(drawn(i, "white" if i % 2 else ""))):
            row = {"question": f"Question {at} of {i}?", "answer": f"Answer {at * 37 + i}.", "g": f"g{i} {at}", "n": i}
            items.append(row | {"picture": save(folder, f"{i}{name}", content), "chosen": "Yes.", "rejected": "No."})
    write_rows(folder, items)
    pair = {
        "prompt": [{"role": "user", "content": "{question}"}],
        "chosen": [{"role": "assistant", "content": "{chosen}"}],
        "rejected": [{"role": "assistant", "content": "{rejected}"}],
    }
    groups: list[dict[str, Any]] = [{}, {"group": "{g}"}]
    for group in groups:
        common: dict[str, Any] = {"images": ["{picture}"], "n": "{n}", **group}
        sets = {
            name: {"near_duplicates": False, "rows": [rows("mine", template | common)]}
            for name, template in (("sft", SFT), ("preferences", pair), ("eval:quiz", EVAL))
        }
        out = run(folder, showing(sets=sets, split={"validation": 0.3, "test": 0.3}), f"out{len(group)}")
        tested = [row["n"] for row in read(out / "eval/quiz.jsonl")]
        shown = {"test": set(tested)}
        for name in ("sft", "preferences"):
            for split in ("train", "validation"):
                shown.setdefault(split, set()).update(row["n"] for row in read(out / name / f"{split}.jsonl"))
        assert sum(map(len, shown.values())) == 20 == len(set.union(*shown.values())), "a picture is on one side"
        assert all(shown.values())
        assert len(tested) == 7 * len(set(tested)), "no row is lost"
        assert len(written(out)) == 7 * (20 - len(set(tested)))
        write_rows(folder, items[::-1], "rows.jsonl")
        again = run(folder, showing(sets=sets, split={"validation": 0.3, "test": 0.3}), f"again{len(group)}")
        assert (again / "sft/train.jsonl").read_bytes() == (out / "sft/train.jsonl").read_bytes(), "order is nothing"


def test_a_group_is_not_parted_by_the_likeness_of_its_pictures(folder: Path) -> None:
    items = []
    for i in range(0, 40, 2):  # the second picture of each group resembles the first one of the next
        one, two = variants(drawn(i // 2))[1], variants(drawn(i // 2 + (i % 4 == 0)))[2]
        for at, (name, content) in enumerate((one, two)):
            row = {"question": f"Question {i + at}?", "answer": f"Answer {i * 37 + at}.", "g": f"g{i}"}
            items.append(row | {"picture": save(folder, f"{i}{name}", content)})
    write_rows(folder, items)
    write_rows(
        folder, [{"question": f"Text {i}?", "answer": f"Said {i}.", "g": f"g{i}"} for i in range(0, 40, 2)], "t.jsonl"
    )
    sources = {"mine": file_source("rows.jsonl"), "text": file_source("t.jsonl")}
    group = {"group": "{g}", "g": "{g}"}
    sets = {
        "sft": {"near_duplicates": False, "rows": [rows("mine", SHOWN | group)]},
        "sft:text": {"near_duplicates": False, "rows": [rows("text", SFT | group)]},
    }
    out = run(folder, showing(sources=sources, sets=sets))
    sides = {split: {row["g"] for name in ("sft", "sft-text") for row in read(out / name / f"{split}.jsonl")}
             for split in ("train", "validation")}  # fmt: skip
    assert len(written(out)) == 40
    assert sides["train"].isdisjoint(sides["validation"])
    for i in range(0, 36, 4):
        assert ({f"g{i}", f"g{i + 2}"} <= sides["train"]) or ({f"g{i}", f"g{i + 2}"} <= sides["validation"])


def test_what_a_published_test_set_shows_trains_nowhere(folder: Path) -> None:
    quiz = [row | {"picture": save(folder, f"q{i}.png", encoded(drawn(i)))} for i, row in enumerate(asked(6, 500))]
    write_rows(folder, quiz, "quiz.jsonl")
    leaks = [save(folder, f"leak{i}.jpg", variants(drawn(i))[4][1]) for i in range(6)]
    items = [row | {"picture": [save(folder, f"p{i}.png", encoded(drawn(100 + i)))]} for i, row in enumerate(asked(20))]
    items += [row | {"picture": [leaks[i]]} for i, row in enumerate(asked(6, 20))]
    items += [row | {"picture": [f"p{i}.png", leaks[i]]} for i, row in enumerate(asked(6, 30))]
    write_rows(folder, items)
    sources = {"mine": file_source("rows.jsonl"), "quiz": file_source("quiz.jsonl")}
    sets = {
        "sft": {"near_duplicates": False, "rows": [rows("mine", SHOWN, "published")]},
        "eval:quiz": {"near_duplicates": False, "rows": [rows("quiz", ASKED, "published")]},
    }
    out = run(folder, showing(sources=sources, sets=sets))
    assert len(read(out / "eval/quiz.jsonl")) == 6
    assert len(written(out)) == 20, "what is beside the test's pictures trains"
    dropped = report(out)["sets"]["sft"]["dropped"]
    assert dropped["in the test split"]["count"] == 6
    assert dropped["its pictures are on two sides of the split"]["count"] == 6
    assert report(out)["pictures"]["files"] == 26, "the archive holds what the sets show"


def test_the_archive_is_the_same_bytes_again_and_gives_the_same_pixels(folder: Path) -> None:
    items = [(row, f"p{i}.png", encoded(drawn(i))) for i, row in enumerate(asked(GOOD))]
    items += [(row, f"e{i}.jpg", turned(6)) for i, row in enumerate(asked(3, GOOD))]
    items += [(row, f"b{i}.png", b"<html>") for i, row in enumerate(asked(3, 20))]
    recipe = SOURCES["structs"](folder, items)
    with Path("data.yaml").open("w", encoding="utf-8") as f:
        YAML().dump(recipe, f)
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "tasks.data", "data.yaml", "--out", f"artifacts/{seed}"]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPO)}
        subprocess.run(command, check=True, env=environment, capture_output=True)
    for name in ("media.zip", "rejects.jsonl", "report.json", "manifest.json", "sft/train.jsonl"):
        assert Path("artifacts/1", name).read_bytes() == Path("artifacts/2", name).read_bytes(), name
    run(folder, recipe, "out")
    assert (folder / "out/media.zip").read_bytes() == Path("artifacts/1/media.zip").read_bytes()
    archive = Archive(folder / "out")
    pixels = {row["question"]: content for row, _, content in items}
    for row in written(folder / "out"):
        asking = row["messages"][0]["content"]
        seen = np.asarray(archive.image(row["images"][0]))
        if int(asking.split()[-1].rstrip("?")) < GOOD:
            assert np.array_equal(seen, np.asarray(Image.open(io.BytesIO(pixels[asking])).convert("RGB")))
        else:
            assert seen.shape == (40, 20, 3)


def test_a_picture_is_decoded_once(tmp_path: Path) -> None:
    save(tmp_path, "a/p.png", encoded(drawn(0)))
    save(tmp_path, "a/copy.png", encoded(drawn(0)))
    save(tmp_path, "a/bad.jpg", b"<html>")
    save(tmp_path, "blob", encoded(drawn(0)))
    store = Pictures(tmp_path / "scratch", PictureSettings(**BOUNDS))
    names = ["p.png", "./p.png", "../a/p.png", str(tmp_path / "a/p.png"), "copy.png", {"bytes": None, "path": "p.png"}]
    found = {store.add(name, (tmp_path / "a",)).name for name in names}
    assert len(found) == 1
    assert store.decoded == 1
    for i in range(3):
        with pytest.raises(ValueError, match=r"the picture bad\.jpg is a page of HTML"):
            store.add("bad.jpg", (tmp_path / "a",))
        assert store.add(Blob(tmp_path / "blob", f"{i}.png", 9), ()).name in found
    assert store.decoded == 2
    with pytest.raises(ValueError, match=r"the picture p\.jpg is a PNG by its content"):
        store.add(Blob(tmp_path / "blob", "p.jpg", 9), ())


def test_a_file_that_changes_in_between_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, "p.png", encoded(drawn(0)))
    store = Pictures(tmp_path / "scratch", PictureSettings(**BOUNDS))
    name = store.add("p.png", (tmp_path,)).name
    save(tmp_path, "p.png", encoded(drawn(1)))
    with pytest.raises(DataError, match=r"p\.png: changed while the data was made"):
        write_archive(tmp_path, store.files([name]))
    (tmp_path / "p.png").unlink()
    with pytest.raises(DataError, match=r"p\.png: cannot be read again"):
        write_archive(tmp_path, store.files([name]))


def test_the_same_bytes_in_many_rows_lie_once_on_disk_and_unread_bytes_not_at_all(folder: Path) -> None:
    from tasks.ingestion.media_columns import spill

    row = {"picture": encoded(drawn(0)), "sound": b"\0" * 999, "text": "x", "note": b"kept"}
    spilt = [spill(row, folder / "spill", {"picture"}, {"text", "note"}) for _ in range(5)]
    assert len([path for path in (folder / "spill").rglob("*") if path.is_file()]) == 1
    assert len({row["picture"].path for row in spilt}) == 1
    assert spilt[0]["picture"].path.read_bytes() == row["picture"]
    assert (spilt[0]["sound"], spilt[0]["text"], spilt[0]["note"]) == ("999 bytes", "x", b"kept")
    assert str(folder) not in str(spilt[0]["picture"])


def test_memory_does_not_grow_with_the_pictures(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet as files

    rng = np.random.default_rng(0)
    tail = rng.bytes(24_000)  # behind a picture's end a file may hold anything
    code = """
import pathlib, tasks.data
tasks.data.stage(tasks.data.main, tasks.data.Config)
print(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    peaks = []
    for count in (500, 4000):
        noise = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]
        columns = {"question": [f"Question {i}?" for i in range(count)], "answer": ["Yes."] * count}
        table = pyarrow.table(columns | {"picture": [encoded(image) + tail for image in noise]})
        # One group of rows, as pyarrow writes by itself; uncompressed, for it would see that the tails are one.
        files.write_table(table, folder / "rows.parquet", compression="NONE", write_batch_size=64)
        recipe = showing(sources={"mine": file_source("rows.parquet")})
        with (folder / "data.yaml").open("w", encoding="utf-8") as f:
            YAML().dump(recipe, f)
        command = [sys.executable, "-c", code, "data.yaml", "--out", f"artifacts/{count}"]
        done = subprocess.run(
            command, check=True, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True
        )
        peaks.append(int(done.stdout))
        assert report(folder / f"artifacts/{count}")["pictures"]["files"] == count
    assert (folder / "rows.parquet").stat().st_size > 95_000_000
    assert peaks[1] - peaks[0] < 45_000, "kilobytes"
