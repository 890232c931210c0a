"""Packages of the npm registry: what they were pinned to be, unpacked once; and the emoji that a recipe takes out."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.ingestion.npm import package_folder
from tasks.ingestion.sources import GeneratorSource, read
from tasks.ingestion.wheels import DOWNLOADS
from tasks.stage.artifact import sha256
from tasks.stage.errors import DataError
from tests.conftest import REPO

RECIPE = REPO / "params/smollm2"
NAME = "emoji-datasource-google"


def archive(files: dict[str, bytes], name: str = NAME) -> Path:
    """An archive of version 1.0.0 where `npm pack` puts it."""
    path = DOWNLOADS / f"npm-{name}-1.0.0" / f"{name}-1.0.0.tgz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as opened:
        for member, content in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


def test_a_pinned_package_is_unpacked_once(workspace: Path) -> None:
    digest = sha256(archive({"package/data.json": b"[]", "package/img/a.png": b"a"}, "mine"))
    folder = package_folder("mine", "1.0.0", digest)
    assert (folder / "data.json").read_bytes() == b"[]" and (folder / "img/a.png").read_bytes() == b"a"
    before = folder.stat().st_mtime_ns
    assert package_folder("mine", "1.0.0", digest.upper()) == folder
    assert folder.stat().st_mtime_ns == before


def test_another_archive_is_removed(workspace: Path) -> None:
    path = archive({"package/data.json": b"[]"}, "mine")
    with pytest.raises(DataError, match=rf"mine-1.0.0.tgz: SHA-256 is {sha256(path)}, the recipe pins 0000"):
        package_folder("mine", "1.0.0", "0" * 64)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"<html>Not found</html>", b""])
def test_what_is_no_archive_leaves_nothing_behind(workspace: Path, content: bytes) -> None:
    path = archive({}, "mine")
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        package_folder("mine", "1.0.0", sha256(path))
    assert [entry.name for entry in path.parent.iterdir() if not entry.name.endswith(".tmp")] == [path.name]


def test_nothing_is_written_outside_of_the_folder(workspace: Path) -> None:
    path = archive({"../../../escaped.txt": b"out"}, "mine")
    with pytest.raises(DataError, match="cannot be unpacked"):
        package_folder("mine", "1.0.0", sha256(path))
    assert not list(workspace.rglob("escaped.txt"))


def npm_that(folder: Path, script: str) -> None:
    """An `npm` at the head of the path."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


def test_without_npm_the_advice_is_to_install_it(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workspace))
    with pytest.raises(DataError, match=r"mine@1.0.0: npm is not installed; install Node.js, .* or put the archive"):
        package_folder("mine", "1.0.0", "0" * 64)


def test_what_npm_says_is_repeated(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_that(workspace / "bin", "echo 'npm error code E404' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{workspace / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(DataError, match=r"mine@1.0.0: npm could not download it \(npm error code E404\)"):
        package_folder("mine", "1.0.0", "0" * 64)


def test_npm_is_asked_for_the_exact_version_and_runs_no_script(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = archive({"package/data.json": b"[1]"}, "made")
    npm_that(workspace / "bin", f'echo "$@" > said; cp {made.absolute()} mine-1.0.0.tgz')
    monkeypatch.setenv("PATH", f"{workspace / 'bin'}:{os.environ['PATH']}")
    assert (package_folder("mine", "1.0.0", sha256(made)) / "data.json").read_bytes() == b"[1]"
    assert (DOWNLOADS / "npm-mine-1.0.0/said").read_text() == "pack --loglevel=error --ignore-scripts mine@1.0.0\n"


def picture(colour: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (colour, 0, 0)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def emoji(workspace: Path) -> dict[str, str]:
    """A package of 120 things, some people in three forms each, a flag and a letter: its `version` and `sha256`."""
    points = [(f"{0x1F400 + i:X}", f"THING {i}", "animal") for i in range(120)]
    for i in range(20):
        job = f"{0x1F680 + i:X}"
        points += [(f"{who}-200D-{job}", f"{word} PILOT {i}", "person-role") for who, word in
                   (("1F9D1", ""), ("1F468", "MAN"), ("1F469", "WOMAN"))]  # fmt: skip
    points += [("1F1EB-1F1F7", "France Flag", "country-flag"), ("1F170-FE0F", "LETTER A", "alphanum")]
    points += [("1F550", "CLOCK FACE ONE OCLOCK", "time"), ("1F551", "CLOCK FACE TWO OCLOCK", "time")]
    entries = [
        {
            "name": name, "unified": code, "image": f"{i}.png", "category": "Things", "subcategory": kind,
            "has_img_google": True,
        }
        for i, (code, name, kind) in enumerate(points)
    ]  # fmt: skip
    files = {f"package/img/google/64/{i}.png": picture(i) for i in range(len(entries))}
    path = archive({"package/emoji.json": json.dumps(entries).encode(), **files})
    return {"version": "1.0.0", "sha256": sha256(path)}


def rows(function: str, **options: Any) -> list[dict[str, Any]]:
    source = GeneratorSource(generator=f"generators.{function}", options=options, licence="Apache-2.0")
    return [line.row for line in read("emoji", source, RECIPE).lines]


def test_no_emoji_of_the_test_is_in_the_training_nor_another_form_of_it(emoji: dict[str, str]) -> None:
    train, test = (rows("named", **emoji, part=part, test_share=0.4) for part in ("train", "test"))
    assert len(train) > 80 and len(test) > 50
    assert not {row["group"] for row in train} & {row["group"] for row in test}
    named = {row["name"]: row["group"] for row in [*train, *test]}
    assert named["pilot 3"] == named["man pilot 3"] == named["woman pilot 3"] != named["pilot 4"]
    assert named["clock face one oclock"] == named["clock face two oclock"]
    assert not {"france flag", "letter a"} & named.keys()


def test_each_name_is_once_right_and_as_often_wrong_as_any_other(emoji: dict[str, str]) -> None:
    """So a model that does not look is right by chance, whichever names it likes."""
    asked = rows("questions", **emoji, test_share=0.4, candidates=10, seed=3, limit=40)
    assert len(asked) == 40 == len({row["group"] for row in asked})
    right = [f"{row['name']}." for row in asked]
    assert len(set(right)) == 40
    assert all(len(set(row["choices"])) == 10 for row in asked)
    assert all(answer in row["choices"] for row, answer in zip(asked, right, strict=True))
    counts = {name: sum(name in row["choices"] for row in asked) for name in right}
    assert set(counts.values()) == {10}
    assert len({row["choices"].index(answer) for row, answer in zip(asked, right, strict=True)}) > 5
    favourite = [min(row["choices"]) == answer for row, answer in zip(asked, right, strict=True)]
    assert sum(favourite) / len(favourite) <= 0.2
    assert asked == rows("questions", **emoji, test_share=0.4, candidates=10, seed=3, limit=40)


def test_the_likeliest_choice_is_graded() -> None:
    from tasks.stage import own

    chosen = own.functions(RECIPE, "graders")["graders.chosen"]
    doc = {"choices": ["fox.", "cat.", "bear."], "answer": "cat."}
    assert chosen(doc, [(-9.0, False), (-3.0, False), (-4.0, True)]) == {"accuracy": 1.0}
    assert chosen(doc, [(-2.0, False), (-3.0, False), (-4.0, True)]) == {"accuracy": 0.0}
