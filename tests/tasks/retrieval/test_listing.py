"""The listing of sources: patterns, links, pipes, bounds, names that lead out, wheels and hub data sets."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tasks.ingestion import wheels
from tasks.retrieval.documents import DocumentSource
from tasks.retrieval.extracted import Unreadable
from tasks.retrieval.listing import Found, Refused, listed, matcher
from tasks.stage.artifact import sha256
from tasks.stage.errors import DataError

COMMON = {"format": None, "within": None, "licence": "CC0-1.0"}


def source(**keys: Any) -> Any:
    return TypeAdapter(DocumentSource).validate_python(COMMON | keys)


def folder(files: str = "**/*.txt") -> Any:
    return source(folder="docs", files=[files], sha256=None)


def outcome(source: Any, recipe: Path = Path(), max_bytes: int = 1000) -> dict[str, str]:
    """Name to text, or to the reason why it is not read."""
    found = {}
    for document in listed(source, recipe, max_bytes):
        if isinstance(document, Refused):
            found[document.name] = document.why.reason
            continue
        try:
            found[document.name] = document.read().decode()
        except Unreadable as e:
            found[document.name] = e.reason
    return found


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("**/*.md", ["a.md", "b/a.md", "b/c/a.md"], ["a.mdx", "amd"]),
        ("*.md", ["a.md"], ["b/a.md"]),
        ("b/**", ["b/a", "b/c/d"], ["a/b"]),
        ("?.[x]", ["a.[x]"], ["ab.[x]", "a.x"]),
    ],
)
def test_patterns(pattern: str, fits: list[str], others: list[str]) -> None:
    matches = matcher(["never", pattern])
    assert all(map(matches, fits))
    assert not any(map(matches, others))


def test_a_folder_is_listed_by_pattern_in_one_order(workspace: Path) -> None:
    for name in ("docs/b.txt", "docs/a/z.txt", "docs/a/b.md", "docs/a.txt"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(name)
    assert list(outcome(folder()).items()) == [
        ("a.txt", "docs/a.txt"),
        ("b.txt", "docs/b.txt"),
        ("a/z.txt", "docs/a/z.txt"),
    ]


def test_what_must_not_be_read_is_named_with_the_reason(workspace: Path) -> None:
    docs = workspace / "docs"
    (docs / "in").mkdir(parents=True)
    (workspace / "out").mkdir()
    (workspace / "out/secret.txt").write_text("hunter2")
    (docs / "in/good.txt").write_text("good")
    (docs / "out.txt").symlink_to("../out/secret.txt")
    (docs / "alias.txt").symlink_to("in/good.txt")
    (docs / "nowhere.txt").symlink_to("gone.txt")
    (docs / "loop.txt").symlink_to("loop.txt")
    (docs / "linked").symlink_to("../out")
    (docs / "big.txt").write_text("x" * 1001)
    os.mkfifo(docs / "pipe.txt")
    (docs / "caf\udce9").mkdir()  # a byte that is no UTF-8
    (docs / "caf\udce9/x.txt").write_text("x")
    assert outcome(folder()) == {
        "linked": "a link to a folder",
        "alias.txt": "good",
        "big.txt": "too large",
        "loop.txt": "cannot be opened",
        "nowhere.txt": "cannot be opened",
        "out.txt": "a link out of the folder",
        "pipe.txt": "no file",
        "caf\udce9/x.txt": "unusable name",
        "in/good.txt": "good",
    }


def test_a_file_that_grew_since_it_was_listed_is_not_read_whole(workspace: Path) -> None:
    (workspace / "docs").mkdir()
    (workspace / "docs/a.txt").write_text("small")
    (found,) = listed(folder(), Path(), 1000)
    assert isinstance(found, Found)
    (workspace / "docs/a.txt").write_text("x" * 5000)
    with pytest.raises(Unreadable, match="too large"):
        found.read()


def test_a_file_that_was_deleted_since_it_was_listed_is_named(workspace: Path) -> None:
    (workspace / "docs").mkdir()
    (workspace / "docs/a.txt").write_text("small")
    (found,) = listed(folder(), Path(), 1000)
    assert isinstance(found, Found)
    (workspace / "docs/a.txt").unlink()
    with pytest.raises(Unreadable, match="cannot be opened"):
        found.read()


def test_a_missing_folder_is_an_error(workspace: Path) -> None:
    with pytest.raises(DataError, match="docs: is missing; expected the folder"):
        outcome(folder())


def test_the_members_of_a_wheel_are_read_out_of_it(workspace: Path) -> None:
    place = workspace / wheels.DOWNLOADS / "manuals-1.0"
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / "manuals-1.0-py3-none-any.whl", "w") as archive:
        for name in ("docs/a.txt", "docs/b.md", "../evil.txt", "/abs.txt", "docs/big.txt"):
            archive.writestr(name, "x" * 2000 if "big" in name else name)
    digest = sha256(place / "manuals-1.0-py3-none-any.whl")
    package = source(package="manuals", version="1.0", sha256=digest, files=["**/*.txt"])
    assert outcome(package) == {
        "docs/a.txt": "docs/a.txt",
        "../evil.txt": "unusable name",
        "/abs.txt": "unusable name",
        "docs/big.txt": "too large",
    }
    assert [path.name for path in place.iterdir()] == ["manuals-1.0-py3-none-any.whl"]


def test_a_generator_yields_documents_by_name(workspace: Path) -> None:
    (workspace / "generators.py").write_text(
        "def people(count):\n"
        "    for i in range(count):\n"
        "        yield {'name': f'{i}.txt', 'text': f'Ada {i}'}\n"
        "    yield {'name': '0.txt', 'text': 'again'}\n"
        "    yield {'name': '../up.txt', 'text': 'x'}\n"
        "    yield {'name': 'new\\nline.txt', 'text': 'x'}\n"
        "    yield {'name': '', 'text': 'x'}\n"
        "    yield {'name': 'number.txt', 'text': 3}\n"
        "def rows():\n"
        "    yield {'question': 'x'}\n"
    )
    assert outcome(source(generator="generators.people", options={"count": 2}), workspace) == {
        "0.txt": "unusable name",
        "1.txt": "Ada 1",
        "../up.txt": "unusable name",
        "new\nline.txt": "unusable name",
        "": "unusable name",
        "number.txt": "no text",
    }
    with pytest.raises(DataError, match="number 1 is no document; expected a dictionary with 'name' and 'text'"):
        outcome(source(generator="generators.rows", options={}), workspace)


def test_the_rows_of_a_hub_data_set_are_documents(workspace: Path) -> None:
    (workspace / "sets").mkdir()
    (workspace / "sets/train.jsonl").write_text('{"body": "one", "key": "a"}\n{"body": "two", "key": "b"}\n')
    keys = {"hub": "sets", "revision": "main", "config": None, "split": "train", "rows": None, "format": "text"}
    assert outcome(source(**keys, text="body", name="key")) == {"a": "one", "b": "two"}
    assert outcome(source(**keys, text="body", name=None)) == {"1": "one", "2": "two"}
    with pytest.raises(DataError, match="no column 'content', the 'text' of the source; there are: body, key"):
        outcome(source(**keys, text="content", name=None))
