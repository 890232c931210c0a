"""Sounds in the data stage: from files, Parquet and folders of `datasets`, one bad sound costs one row."""

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
from ruamel.yaml import YAML

from tasks.data import Config
from tasks.ingestion.media_columns import Blob
from tasks.ingestion.media_files import write_archive
from tasks.ingestion.sounds import Sounds, SoundSettings, histogram
from tasks.ingestion.values import BadRow
from tasks.multimodal.images import Archive
from tasks.multimodal.sounds import sound
from tasks.stage.errors import ConfigError, DataError
from tests.conftest import REPO
from tests.support.data_stage import EVAL, PAIR, SFT, file_source, read, recipe, report, rows, run, write_rows
from tests.support.drawings import BOUNDS, drawn, save
from tests.support.drawings import encoded as drawing
from tests.support.recordings import (
    ASKED,
    HEARD,
    RATE,
    SOUNDS,
    bad_files,
    channels,
    encoded,
    flac,
    hearing,
    played,
    spoken,
    still,
)

GOOD = 12
BAD = bad_files()
Items = list[tuple[dict[str, Any], str, bytes]]


def good(folder: Path, count: int = GOOD, first: int = 0) -> list[dict[str, Any]]:
    """Rows with a sound each, as files of the folder."""
    return [row | {"clip": save(folder, f"c{i}.flac", flac(i))} for i, row in enumerate(spoken(count, first), first)]


def written(out: Path, name: str = "sft") -> list[dict[str, Any]]:
    """The rows of both files of a training set."""
    return [row for split in ("train", "validation") for row in read(out / name / f"{split}.jsonl")]


def reasons(out: Path) -> dict[int, str]:
    """Line to reason of every reject."""
    return {row["line"]: row["reason"] for row in read(out / "rejects.jsonl")}


def as_jsonl(folder: Path, items: Items) -> dict[str, Any]:
    write_rows(folder, [row | {"clip": save(folder, name, content)} for row, name, content in items])
    return hearing()


def parquet(make: Callable[[str, bytes], Any], template: dict[str, Any] = HEARD) -> Any:
    def write(folder: Path, items: Items) -> dict[str, Any]:
        import pyarrow
        from pyarrow import parquet as files

        table = [row | {"clip": make(name, content)} for row, name, content in items]
        files.write_table(pyarrow.Table.from_pylist(table), folder / "rows.parquet")
        return hearing(template, sources={"mine": file_source("rows.parquet")})

    return write


def hub_source(name: str, streaming: bool = False) -> dict[str, Any]:
    base = {"hub": name, "revision": "main", "config": None, "split": "train", "rows": None, "licence": "MIT"}
    return base | {"streaming": streaming}


def as_hub(nested: bool, streaming: bool) -> Any:
    """A folder as the hub has them: Parquet whose metadata says that a column is audio."""

    def write(folder: Path, items: Items) -> dict[str, Any]:
        import datasets
        import pyarrow
        from pyarrow import parquet as files

        audio, text = datasets.Audio(sampling_rate=16_000), datasets.Value("string")
        features = {"question": text, "answer": text, "clip": datasets.List(audio) if nested else audio}
        described = {"huggingface": json.dumps({"info": {"features": datasets.Features(features).to_dict()}})}
        values = [{"bytes": content, "path": name} for _, name, content in items]
        table = [row | {"clip": [one] if nested else one} for (row, _, _), one in zip(items, values, strict=True)]
        (folder / "someone/speech").mkdir(parents=True)
        described_table = pyarrow.Table.from_pylist(table).replace_schema_metadata(described)
        files.write_table(described_table, folder / "someone/speech/train.parquet")
        loaded = datasets.load_dataset("someone/speech", split="train", streaming=True)
        assert loaded.features == datasets.Features(features), "it is the feature that makes this case one of its own"
        return hearing(sources={"mine": hub_source("someone/speech", streaming)})

    return write


SOURCES: dict[str, Any] = {
    "jsonl": as_jsonl,
    "bytes": parquet(lambda name, content: content),
    "structs": parquet(lambda name, content: {"bytes": content, "path": name}),
    "lists of bytes": parquet(lambda name, content: [content], SFT | {"audio": "{clip}"}),
    "hub": as_hub(nested=False, streaming=False),
    "hub streamed": as_hub(nested=True, streaming=True),
}
NAMELESS = ("bytes", "lists of bytes")
"""Sources whose sounds come without a name, and so may be called nothing that they are not."""


@pytest.fixture
def folder(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder, with a cache of `datasets` of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workspace / "cache")
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", workspace / "cache/downloads")
    return workspace


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_bad_sound_is_a_bad_row_that_is_named(folder: Path, source: str) -> None:
    bad = {name: value for name, value in BAD.items() if not (source in NAMELESS and name.startswith("really_"))}
    items = [(row, f"c{i}.flac", flac(i)) for i, row in enumerate(spoken(GOOD))]
    items += [(row, name, bad[name][0]) for row, name in zip(spoken(len(bad), GOOD), bad, strict=True)]
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
    assert report(out)["sounds"]["files"] == GOOD
    assert {path.name for path in out.iterdir()} == {"sft", "media.zip", "rejects.jsonl", "report.json"}


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_what_is_heard_is_kept_in_one_form_and_counted(folder: Path, source: str) -> None:
    loud = np.clip(4 * played(20), -1, 1)
    odd = {
        "plain.wav": encoded(played(0)),
        "rate.wav": encoded(played(1, 0.5, 16_000), rate=16_000),
        "studio.flac": encoded(played(2, 0.5, 192_000), "FLAC", "PCM_24", rate=192_000),
        "stereo.wav": encoded(channels(2, 3)),
        "eight.wav": encoded(channels(8, 4), "WAV", "PCM_24"),
        "float.wav": encoded(played(5), "WAV", "FLOAT"),
        "bytes.wav": encoded(played(6), "WAV", "PCM_U8"),
        "song.mp3": encoded(played(7), "MP3"),
        "song.ogg": encoded(played(8), "OGG", "VORBIS"),
        "loud.flac": encoded(loud, "FLAC"),
        "late.wav": encoded(still(1.25, 0)),
        "brief.wav": encoded(still(0.2, 0.2, 9)),
    }
    items = [(row, name, odd[name]) for row, name in zip(spoken(len(odd)), odd, strict=True)]
    items += [(row, f"c{i}.flac", flac(i)) for i, row in enumerate(spoken(GOOD, len(odd)), 30)]
    out = run(folder, SOURCES[source](folder, items))
    assert read(out / "rejects.jsonl") == []
    facts = report(out)["sounds"]
    assert facts["files"] == len(items)
    assert facts["resampled"] == {"16000 Hz": 1, "192000 Hz": 1}
    assert facts["mixed_down"] == {"2 channels": 1, "8 channels": 1}
    assert facts["converted"] == {"24 bit": 2, "32 bit float": 1, "8 bit": 1, "MP3": 1, "Vorbis": 1}
    assert (facts["clipped"], facts["long_silence"]) == (1, 2)
    assert facts["seconds"]["bins"] == [[0.25, GOOD + 8], [0.5, 2], [1.0, 1], [2.0, 1]]
    assert facts["bytes"] == sum(info.file_size for info in zipfile.ZipFile(out / "media.zip").infolist())
    heard = {row["messages"][0]["content"]: row["audio"] for row in written(out)}
    archive = Archive(out)
    for row, name, content in items:
        (kept,) = heard[row["question"]]
        samples, rate = sound(archive, kept)
        assert rate == RATE
        assert samples.dtype == np.float32
        if name.startswith("c"):
            assert archive.read(kept) == content, "kept byte for byte"
    samples, _ = sound(archive, heard[items[0][0]["question"]][0])
    assert np.abs(samples - played(0)).max() < 2**-14
    samples, _ = sound(archive, heard[items[10][0]["question"]][0])
    assert len(samples) == 1.5 * RATE, "silence stays"


def test_names_that_lead_nowhere_are_bad_rows(folder: Path) -> None:
    inner = folder / "clips"
    items: list[Any] = good(inner)
    save(folder, "outside.flac", flac(99))
    (inner / "link.flac").symlink_to(folder / "outside.flac")
    (inner / "loop.flac").symlink_to("loop.flac")
    (inner / "folder.flac").mkdir()
    os.mkfifo(inner / "pipe.flac")
    odd: list[tuple[Any, str]] = [
        ("../outside.flac", "the sound ../outside.flac lies outside clips; put it there, or set the source's `media`"),
        (str(folder / "outside.flac"), "lies outside clips"),
        ("/etc/hostname", "lies outside clips"),
        ("link.flac", "lies outside clips"),
        ("loop.flac", "is no path that can be followed"),
        ("missing.flac", "the sound missing.flac is not in clips"),
        ("folder.flac", "the sound folder.flac is a folder, not a file"),
        ("pipe.flac", "is a pipe or device, not a file"),
        ("https://example.org/a.flac", "is an address; download it"),
        ("data:audio/flac;base64," + "A" * 100_000, "is written out in its address"),
        ("x" * 5000 + ".flac", "is no path (File name too long)"),
        (" ", "the name of a sound is empty"),
        (None, "'clip' is null, and should be a sound"),
        (7, "a sound is int; expected the name of a file, or bytes"),
        ([], "the row has no sound, only an empty list"),
        ([["c0.flac"]], "a sound is list"),
        ({"array": [0.0], "sampling_rate": 8000}, "a sound is dict"),
    ]
    items += [row | {"clip": value} for row, (value, _) in zip(spoken(len(odd), GOOD), odd, strict=True)]
    write_rows(folder, [*items, spoken(1, 99)[0]])
    out = run(folder, hearing(sources={"mine": file_source("rows.jsonl") | {"media": "clips"}}))
    found = reasons(out)
    for line, (value, reason) in enumerate(odd, GOOD + 1):
        assert reason in found[line], value
        assert len(found[line]) < 300
    assert found[GOOD + len(odd) + 1] == "no column 'clip'"
    assert len(found) == len(odd) + 1
    with zipfile.ZipFile(out / "media.zip") as archive:
        assert len(archive.namelist()) == GOOD


def test_a_bad_row_stops_the_stage_by_file_and_line(folder: Path) -> None:
    write_rows(folder, [*good(folder), spoken(1, 50)[0] | {"clip": save(folder, "quiet.wav", encoded(np.zeros(800)))}])
    with pytest.raises(DataError, match=r"1 of 13 rows are bad[^\n]*\n  rows.jsonl:13: the sound quiet.wav is silent"):
        run(folder, hearing(max_bad_share=0.0))


def test_several_sounds_in_order_and_names_with_columns_filled_in(folder: Path) -> None:
    items = [row | {"number": i, "more": [] if i % 2 else ["m.flac"]} for i, row in enumerate(spoken(GOOD))]
    for i in range(GOOD):
        save(folder, f"said/take {i}.flac", flac(i))
    save(folder, "m.flac", flac(50))
    write_rows(folder, items)
    template = EVAL | {"audio": ["said/take {number}.flac", "{more}"], "number": "{number}"}
    sets = {"eval:all": {"near_duplicates": False, "rows": [rows("mine", template, "published")]}}
    out = run(folder, hearing(sets=sets))
    archive = Archive(out)
    asked = read(out / "eval/all.jsonl")
    assert len(asked) == GOOD
    for row in asked:
        assert len(row["audio"]) == 2 - row["number"] % 2
        assert archive.read(row["audio"][0]) == flac(row["number"])
        assert all(archive.read(name) == flac(50) for name in row["audio"][1:])


@pytest.mark.parametrize("audio", [[], 5, {"a": "{clip}"}, ["{clip}", 3], None])
def test_a_map_of_sounds_that_cannot_be(folder: Path, audio: Any) -> None:
    write_rows(folder, good(folder))
    with pytest.raises(DataError, match=r"sets\.sft\.rows\.0\.map: 'audio' is .*; expected names of columns"):
        run(folder, hearing(SFT | {"audio": audio}))


@pytest.mark.parametrize("other", ["images", "video"])
def test_a_row_has_one_kind_of_media(folder: Path, other: str) -> None:
    write_rows(folder, good(folder))
    sections = {"pictures": BOUNDS, "videos": {"fps": 2, "max_frames": 4}}
    with pytest.raises(DataError, match=rf"sets\.sft\.rows\.0\.map: a row has .* the map has '{other}' and 'audio'"):
        run(folder, hearing(HEARD | {other: "{clip}"}, **sections))
    with pytest.raises(DataError, match="nothing looks at media in 'pretrain'"):
        sets = {"pretrain": {"near_duplicates": False, "rows": [rows("mine", {"text": "{answer}", "audio": "{clip}"})]}}
        run(folder, hearing(sets=sets))


def test_a_recipe_of_sounds_needs_bounds(folder: Path) -> None:
    write_rows(folder, good(folder))
    with pytest.raises(DataError, match=r"set 'sft' has sounds, and there is no section 'sounds'; add it, e\.g\. `sou"):
        run(folder, {key: value for key, value in hearing().items() if key != "sounds"})
    bounds: list[tuple[str, Any]] = [("sampling_rate", 0), ("max_seconds", 0), ("max_bytes", 0), ("silence", 1)]
    for key, value in [*bounds, ("sampling_rate", 8000.5), ("silence", -0.1)]:
        with pytest.raises(ConfigError, match=rf"sounds\.{key}"):
            run(folder, hearing(sounds=SOUNDS | {key: value}))
    with pytest.raises(ConfigError, match=r"unknown key 'sounds\.sample_rate'; did you mean 'sampling_rate'"):
        run(folder, hearing(sounds=SOUNDS | {"sample_rate": 8000}))


def test_a_recipe_without_sounds_is_identified_as_before() -> None:
    """Every artifact's manifest holds a hash of the recipe: a new key must not make all of them new."""
    assert "sounds" not in Config.model_validate(recipe()).model_dump(mode="json")
    assert Config.model_validate(hearing()).model_dump(mode="json")["sounds"] == SOUNDS


def test_text_pictures_and_sounds_lie_in_one_artifact(folder: Path) -> None:
    write_rows(folder, good(folder))
    pictures = [row | {"picture": save(folder, f"p{i}.png", drawing(drawn(i)))} for i, row in enumerate(spoken(6, 50))]
    write_rows(folder, pictures, "pictures.jsonl")
    write_rows(folder, spoken(8, 100), "text.jsonl")
    sources = {name: file_source(f"{name}.jsonl") for name in ("rows", "pictures", "text")}
    entries = [rows("rows", HEARD), rows("pictures", SFT | {"images": ["{picture}"]}), rows("text", SFT)]
    sets = {"sft": {"near_duplicates": True, "rows": entries}}
    out = run(folder, hearing(sources=sources, sets=sets, pictures=BOUNDS))
    assert sorted(("images" in row, "audio" in row) for row in written(out)) == (
        [(False, False)] * 8 + [(False, True)] * GOOD + [(True, False)] * 6
    )
    names = [name for row in written(out) for name in (*row.get("images", ()), *row.get("audio", ()))]
    with zipfile.ZipFile(out / "media.zip") as archive:
        assert archive.namelist() == sorted(names)
    assert (report(out)["sounds"]["files"], report(out)["pictures"]["files"]) == (GOOD, 6)


def test_exact_duplicates_count_the_sounds(folder: Path) -> None:
    first = good(folder, 1)[0]
    again = save(folder, "again.wav", encoded(played(0)))  # the same samples in another file
    same, other = first | {"clip": again}, first | {"clip": "c1.flac"}
    write_rows(folder, [*good(folder), same, other, other])
    out = run(folder, hearing())
    examples = report(out)["sets"]["sft"]["dropped"]["exact duplicate"]["examples"]
    assert [(row["line"], row["like"]) for row in examples] == [(13, "rows.jsonl:1"), (15, "rows.jsonl:14")]


def test_one_sound_is_on_one_side_whatever_its_file_group_and_set(folder: Path) -> None:
    items = []
    for i in range(20):
        files = [
            encoded(played(i)),
            flac(i),
            encoded(np.stack([played(i)] * 2, axis=1)),
            encoded(played(i), "WAV", "FLOAT"),
        ]
        for at, content in enumerate(files):
            row = {"question": f"Question {at} of {i}?", "answer": f"Answer {at * 37 + i}.", "g": f"g{i} {at}", "n": i}
            kind = "flac" if at == 1 else "wav"
            items.append(row | {"clip": save(folder, f"{i} {at}.{kind}", content), "chosen": "Yes.", "rejected": "No."})
    groups: list[dict[str, Any]] = [{}, {"group": "{g}"}]
    for group in groups:
        write_rows(folder, items)
        common: dict[str, Any] = {"audio": ["{clip}"], "n": "{n}", **group}
        sets = {
            name: {"near_duplicates": False, "rows": [rows("mine", template | common)]}
            for name, template in (("sft", SFT), ("preferences", PAIR), ("eval:quiz", EVAL))
        }
        out = run(folder, hearing(sets=sets, split={"validation": 0.3, "test": 0.3}), f"out{len(group)}")
        tested = [row["n"] for row in read(out / "eval/quiz.jsonl")]
        sides = {"test": set(tested)}
        for name in ("sft", "preferences"):
            for split in ("train", "validation"):
                sides.setdefault(split, set()).update(row["n"] for row in read(out / name / f"{split}.jsonl"))
        assert sum(map(len, sides.values())) == 20 == len(set.union(*sides.values())), "a sound is on one side"
        assert all(sides.values())
        assert len(tested) == 4 * len(set(tested)), "no row is lost"
        write_rows(folder, items[::-1])
        again = run(folder, hearing(sets=sets, split={"validation": 0.3, "test": 0.3}), f"again{len(group)}")
        assert (again / "sft/train.jsonl").read_bytes() == (out / "sft/train.jsonl").read_bytes(), "order is nothing"


def test_a_speaker_is_on_one_side(folder: Path) -> None:
    items = [row | {"speaker": f"s{i % 9}"} for i, row in enumerate(good(folder, 54))]
    write_rows(folder, items)
    who = {"group": "{speaker}", "speaker": "{speaker}"}
    sets = {
        "sft": {"near_duplicates": False, "rows": [rows("mine", HEARD | who)]},
        "eval:quiz": {"near_duplicates": False, "rows": [rows("mine", ASKED | who)]},
    }
    out = run(folder, hearing(sets=sets, split={"validation": 0.3, "test": 0.3}))
    files = ("sft/train", "sft/validation", "eval/quiz")
    sides = [{row["speaker"] for row in read(out / f"{name}.jsonl")} for name in files]
    assert sum(len(read(out / f"{name}.jsonl")) for name in files) == 54
    assert sum(map(len, sides)) == 9 == len(set.union(*sides))


def test_what_a_published_test_set_has_trains_nowhere(folder: Path) -> None:
    quiz = [row | {"clip": save(folder, f"q{i}.flac", flac(200 + i))} for i, row in enumerate(spoken(6, 500))]
    write_rows(folder, quiz, "quiz.jsonl")
    leaks = [save(folder, f"leak{i}.wav", encoded(played(200 + i))) for i in range(6)]
    items = [row | {"clip": [row["clip"]]} for row in good(folder, 20)]
    items += [row | {"clip": [leaks[i]]} for i, row in enumerate(spoken(6, 20))]
    items += [row | {"clip": [f"c{i}.flac", leaks[i]]} for i, row in enumerate(spoken(6, 30))]
    write_rows(folder, items)
    sets = {
        "sft": {"near_duplicates": False, "rows": [rows("mine", HEARD, "published")]},
        "eval:quiz": {"near_duplicates": False, "rows": [rows("quiz", ASKED, "published")]},
    }
    out = run(
        folder, hearing(sources={"mine": file_source("rows.jsonl"), "quiz": file_source("quiz.jsonl")}, sets=sets)
    )
    assert len(read(out / "eval/quiz.jsonl")) == 6
    assert len(written(out)) == 20, "what is beside the test's sounds trains"
    dropped = report(out)["sets"]["sft"]["dropped"]
    assert dropped["in the test split"]["count"] == 6
    assert dropped["its sounds are on two sides of the split"]["count"] == 6
    assert report(out)["sounds"]["files"] == 26, "the archive holds what the sets have"


def test_one_question_may_be_asked_of_every_sound(folder: Path) -> None:
    items = [row | {"question": "What is said?"} for row in good(folder, 40)]
    write_rows(folder, items)
    sets = {
        "sft": {"near_duplicates": True, "rows": [rows("mine", HEARD)]},
        "eval:quiz": {"near_duplicates": True, "rows": [rows("mine", ASKED)]},
    }
    out = run(folder, hearing(sets=sets, split={"validation": 0.2, "test": 0.2}))
    assert len(written(out)) + len(read(out / "eval/quiz.jsonl")) == 40
    assert report(out)["contaminated"] == []


def test_the_artifact_is_the_same_bytes_again(folder: Path) -> None:
    items = [(row, f"c{i}.wav", encoded(played(i, 0.5, 16_000), rate=16_000)) for i, row in enumerate(spoken(GOOD))]
    items += [(row, f"b{i}.wav", b"<html>") for i, row in enumerate(spoken(3, 20))]
    made = SOURCES["structs"](folder, items)
    with Path("data.yaml").open("w", encoding="utf-8") as f:
        YAML().dump(made, f)
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "tasks.data", "data.yaml", "--out", f"artifacts/{seed}"]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPO)}
        subprocess.run(command, check=True, env=environment, capture_output=True)
    for name in ("media.zip", "rejects.jsonl", "report.json", "manifest.json", "sft/train.jsonl"):
        assert Path("artifacts/1", name).read_bytes() == Path("artifacts/2", name).read_bytes(), name
    assert report(Path("artifacts/1"))["sounds"]["resampled"] == {"16000 Hz": GOOD}


def test_a_sound_is_decoded_once(tmp_path: Path) -> None:
    save(tmp_path, "a/c.flac", flac(0))
    save(tmp_path, "a/copy.flac", flac(0))
    save(tmp_path, "a/bad.wav", b"<html>")
    save(tmp_path, "blob", flac(0))
    store = Sounds(tmp_path / "scratch", SoundSettings(**SOUNDS))
    names = ["c.flac", "./c.flac", "../a/c.flac", str(tmp_path / "a/c.flac"), "copy.flac", {"path": "c.flac"}]
    found = {store.add(name, (tmp_path / "a",)).name for name in names}
    assert len(found) == 1
    assert store.decoded == 1
    for i in range(3):
        with pytest.raises(BadRow, match=r"the sound bad\.wav is a page of HTML"):
            store.add("bad.wav", (tmp_path / "a",))
        assert store.add(Blob(tmp_path / "blob", f"{i}.flac", 9), ()).name in found
    assert store.decoded == 2
    with pytest.raises(BadRow, match=r"the sound c\.wav holds FLAC by its content"):
        store.add(Blob(tmp_path / "blob", "c.wav", 9), ())


def test_a_file_that_changes_in_between_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, "c.flac", flac(0))
    store = Sounds(tmp_path / "scratch", SoundSettings(**SOUNDS))
    name = store.add("c.flac", (tmp_path,)).name
    assert store.files([name, "of another store.png"]) == {name: tmp_path / "c.flac"}
    save(tmp_path, "c.flac", flac(1))
    with pytest.raises(DataError, match=r"c\.flac: changed while the data was made"):
        write_archive(tmp_path, store.files([name]))


def test_lengths_are_counted_in_bins_of_seconds() -> None:
    lengths = [0.01, 0.25, 0.26, 0.5, 0.9, 1.0, 7.0]
    assert histogram(lengths) == {
        "bins": [[0.25, 2], [0.5, 2], [1.0, 2], [8.0, 1]],
        "total": 9.92,
        "median": 0.5,
        "p95": 7.0,
        "longest": 7.0,
    }


@pytest.mark.slow
def test_memory_does_not_grow_with_the_sounds(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet as files

    rng = np.random.default_rng(0)
    code = """
import pathlib, tasks.data
tasks.data.stage(tasks.data.main, tasks.data.Config)
print(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    peaks = []
    for count in (500, 5000):
        clips = [encoded(rng.uniform(-0.5, 0.5, 8000), rate=16_000) for _ in range(count)]
        columns = {"question": [f"Question {i}?" for i in range(count)], "answer": ["Yes."] * count, "clip": clips}
        files.write_table(pyarrow.table(columns), folder / "rows.parquet", write_batch_size=64)
        with (folder / "data.yaml").open("w", encoding="utf-8") as f:
            YAML().dump(hearing(sources={"mine": file_source("rows.parquet")}), f)
        command = [sys.executable, "-c", code, "data.yaml", "--out", f"artifacts/{count}"]
        done = subprocess.run(
            command, check=True, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True
        )
        peaks.append(int(done.stdout))
        assert report(folder / f"artifacts/{count}")["sounds"]["files"] == count
    assert (folder / "rows.parquet").stat().st_size > 75_000_000
    assert peaks[1] - peaks[0] < 45_000, "kilobytes"
