"""The stage of passages: the artifact's rows, what is left out and why, and that a second run reads what changed."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from tasks import rag_chunks
from tasks.retrieval.chunker import pieces
from tasks.retrieval.chunks import Chunk, gold, read_chunks
from tasks.retrieval.lexical import Lexical
from tasks.stage import config as recipe_config
from tasks.stage.errors import DataError
from tests.conftest import REPO
from tests.support import documents

Stage = Callable[..., Path]
LONG_AGO = 1_700_000_000


@pytest.fixture
def docs(workspace: Path) -> Path:
    """A folder with a document of every format; their files are old, so that their times can be trusted."""
    folder = workspace / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("Ada Pell lives in Fallmouth.\n\nShe keeps a heron.")
    (folder / "b.md").write_text("# Pumps\n\nA pump moves water.\n")
    (folder / "c.rst").write_text("Seals\n=====\n\nA seal costs three crowns.\n")
    (folder / "d.html").write_text("<h1>Valves</h1><p>A valve stops water.</p><script>evil()</script>")
    (folder / "e.pdf").write_bytes(documents.pdf(["Ben Oss was born in 1907."]))
    (folder / "f.docx").write_bytes(documents.docx([("Fans", "Heading 1"), ("A fan moves air.", "Normal")]))
    return folder


@pytest.fixture
def stage(make_run: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Run the stage over `docs/` with some settings, and return the artifact's folder."""
    monkeypatch.setattr(rag_chunks, "now", lambda: time.time_ns() + 10**12)  # every file has settled
    count = iter(range(100))

    def run(**changes: Any) -> Path:
        made = make_run(f"run{next(count)}")
        made.name = "passages"
        rag_chunks.main(configured(**changes), made)
        return made.out

    return run


def configured(**changes: Any) -> rag_chunks.Config:
    text = recipe_config.read_yaml(REPO / "params/tiny/passages.yaml")
    manuals = {"folder": "docs", "files": ["**/*"], "sha256": None, "format": None, "within": None}
    text |= {"unreadable": "skip", "sources": {"manuals": manuals | {"licence": "CC0-1.0"}}}
    return rag_chunks.Config.model_validate(text | changes)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def rejects(folder: Path) -> dict[str, str]:
    lines = (folder / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["document"]: row["reason"] for row in map(json.loads, lines)}


def test_a_document_of_every_format_becomes_passages_with_titles(docs: Path, stage: Stage) -> None:
    out = stage()
    chunks = read_chunks(out)
    assert [(c.document, c.title, c.text) for c in chunks] == [
        ("manuals/a.txt", (), "Ada Pell lives in Fallmouth."),
        ("manuals/a.txt", (), "She keeps a heron."),
        ("manuals/b.md", ("Pumps",), "A pump moves water."),
        ("manuals/c.rst", ("Seals",), "A seal costs three crowns."),
        ("manuals/d.html", ("Valves",), "A valve stops water."),
        ("manuals/e.pdf", ("page 1",), "Ben Oss was born in 1907."),
        ("manuals/f.docx", ("Fans",), "A fan moves air."),
    ]
    assert (chunks[1].start, chunks[1].end) == (30, 48)
    assert len({c.id for c in chunks}) == 7
    assert gold(chunks, "manuals/a.txt", "She keeps a heron.") == [1]
    rows = parquet.read_table(out / "documents.parquet").to_pylist()
    assert [(row["id"], row["chunks"], row["kind"], row["licence"]) for row in rows] == [
        ("manuals/a.txt", 2, "text", "CC0-1.0"),
        ("manuals/b.md", 1, "markdown", "CC0-1.0"),
        ("manuals/c.rst", 1, "rst", "CC0-1.0"),
        ("manuals/d.html", 1, "html", "CC0-1.0"),
        ("manuals/e.pdf", 1, "pdf", "CC0-1.0"),
        ("manuals/f.docx", 1, "docx", "CC0-1.0"),
    ]
    assert {row["bytes"] for row in rows} == {path.stat().st_size for path in docs.iterdir()}


@pytest.mark.usefixtures("docs")
def test_row_i_of_the_index_is_row_i_of_the_passages(stage: Stage) -> None:
    out = stage()
    chunks = read_chunks(out)
    _, rows = Lexical.open(out / "lexical").search([chunk.text for chunk in chunks], 1)
    assert rows[:, 0].tolist() == list(range(len(chunks)))
    assert Lexical.open(out / "lexical").search(["Pumps"], 1)[1].tolist() == [[2]], "a title is searched"
    without = stage(index_titles=False)
    assert Lexical.open(without / "lexical").search(["Pumps"], 1)[1].tolist() == [[-1]]


def test_an_unchanged_document_is_neither_read_nor_cut_again(
    docs: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real_open = Path.open

    def opened(path: Path, *args: Any, **keys: Any) -> Any:
        if path.parent.name == "docs":
            read.append(path.name)
        return real_open(path, *args, **keys)

    def cut(*args: Any) -> Any:
        read.append("cut")
        return pieces(*args)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(rag_chunks, "pieces", cut)
    cold = bytes_of(stage())
    assert sorted(read) == ["a.txt", "b.md", "c.rst", *["cut"] * 6, "d.html", "e.pdf", "f.docx"]
    read.clear()
    assert bytes_of(stage()) == cold
    assert read == []

    (docs / "b.md").write_text("# Pumps\n\nA pump moves oil.\n")
    read.clear()
    warm = bytes_of(stage())
    assert read == ["b.md", "cut"]
    assert warm != cold
    for path in Path(".polm/retrieval").iterdir():
        path.unlink()
    assert bytes_of(stage()) == warm, "with and without the cache"


def test_words_that_were_counted_before_are_numbered_as_from_an_empty_cache(docs: Path, stage: Stage) -> None:
    stage()
    (docs / "a.txt").write_text("A valve of Hallmouth stops air, air and air.")
    (docs / "0.txt").write_text("Zinc seals cost crowns.")
    (docs / "c.rst").unlink()
    warm = bytes_of(stage())
    for path in Path(".polm/retrieval").iterdir():
        path.unlink()
    assert bytes_of(stage()) == warm


def test_what_a_word_is_decides_whether_documents_are_read_again(docs: Path, stage: Stage) -> None:
    stage()
    exact = configured().lexical.model_dump() | {"lowercase": False}
    assert Lexical.open(stage(lexical=exact) / "lexical").search(["ada"], 1)[1].tolist() == [[-1]]
    assert Lexical.open(stage(index_titles=False) / "lexical").search(["Pumps"], 1)[1].tolist() == [[-1]]
    assert len(list(docs.iterdir())) == 6


def test_a_change_of_the_chunker_cuts_every_document_again(docs: Path, stage: Stage) -> None:
    first = read_chunks(stage())
    chunk = configured().chunk.model_dump() | {"words": 3}
    second = read_chunks(stage(chunk=chunk))
    assert len(second) > len(first)
    assert not {c.id for c in first} & {c.id for c in second}


def test_a_file_that_changed_only_just_now_is_not_trusted(docs: Path, make_run: Callable[[str], Any]) -> None:
    measured = []
    for part in ("first", "second"):
        run = make_run(part)
        run.name = "passages"
        rag_chunks.main(configured(), run)
        measured.append({key: run.measured[key] for key in ("documents_read", "documents_unchanged")})
    assert measured == [{"documents_read": 6, "documents_unchanged": 0}] * 2
    assert len(list(docs.iterdir())) == 6


def test_a_change_that_keeps_size_and_time_is_seen(docs: Path, stage: Stage) -> None:
    (docs / "a.txt").write_text("Ada Pell lives in Fallmouth.")
    os.utime(docs / "a.txt", (LONG_AGO, LONG_AGO))
    stage()
    (docs / "a.txt").write_text("Ada Pell lives in Hallmouth.")
    os.utime(docs / "a.txt", (LONG_AGO, LONG_AGO))
    assert "Hallmouth" in read_chunks(stage())[0].text


def test_a_removed_document_is_gone_from_passages_and_index(docs: Path, stage: Stage) -> None:
    stage()
    (docs / "a.txt").unlink()
    out = stage()
    assert "manuals/a.txt" not in {chunk.document for chunk in read_chunks(out)}
    assert Lexical.open(out / "lexical").search(["heron Fallmouth"], 3)[1].tolist() == [[-1, -1, -1]]
    assert b"heron" not in b"".join(bytes_of(out).values())


def test_text_that_is_put_before_a_passage_changes_no_other_id(docs: Path, stage: Stage) -> None:
    (docs / "a.txt").write_text("One.\n\nTwo.\n\nTwo.\n\nThree.")
    before = [c for c in read_chunks(stage()) if c.document == "manuals/a.txt"]
    (docs / "a.txt").write_text("New.\n\nOne.\n\nTwo.\n\nTwo.\n\nThree.")
    after = [c for c in read_chunks(stage()) if c.document == "manuals/a.txt"]
    assert [c.id for c in after[1:]] == [c.id for c in before]
    assert len({c.id for c in after}) == 5


def test_the_same_text_twice_is_one_document_and_is_counted(docs: Path, stage: Stage) -> None:
    (docs / "copy.md").write_text("# Pumps\n\nA pump moves water.\n")
    out = stage()
    assert [c.document for c in read_chunks(out) if "pump" in c.text] == ["manuals/b.md"]
    assert rejects(out) == {"copy.md": "same text as another document"}
    counted = report(out)["sources"]["manuals"]
    assert (counted["listed"], counted["documents"], counted["duplicates"]) == (7, 6, 1)
    (docs / "b.md").unlink()
    assert [c.document for c in read_chunks(stage()) if "pump" in c.text] == ["manuals/copy.md"]


def test_every_bad_document_is_named_and_counted(docs: Path, stage: Stage) -> None:
    bad = {
        "locked.pdf": (documents.pdf(["Ada."], password="secret"), "encrypted PDF"),
        "cut.pdf": (documents.pdf(["Ada."])[:-600], "truncated PDF"),
        "scan.pdf": (documents.pdf([""]), "PDF without text"),
        "bomb.docx": (documents.zip_bomb(20), "zip bomb"),
        "page.txt": (documents.pdf(["Ada."]), "wrong format"),
        "latin.txt": ("café".encode("latin-1"), "not UTF-8"),
        "nul.txt": (b"a\x00b", "not text"),
        "signs.txt": (b"--- ... ---", "without words"),
        "empty.md": (b"", "empty"),
        "script.html": (b"<script>evil()</script>", "without words"),
        "tool.exe": (b"MZ", "unknown format"),
        "line.txt": (b"word " * 300_000, "too large"),
    }
    good = bytes_of(stage())
    for name, (data, _) in bad.items():
        (docs / name).write_bytes(data)
    (docs / "out.txt").symlink_to("/etc/hostname")
    out = stage()
    reasons = {name: reason for name, (_, reason) in bad.items()} | {"out.txt": "a link out of the folder"}
    assert rejects(out) == reasons
    counted = report(out)["sources"]["manuals"]
    assert counted["listed"] == 19 == counted["documents"] + sum(why["count"] for why in counted["left_out"].values())
    assert counted["left_out"]["without words"] == {"count": 2, "examples": ["script.html", "signs.txt"]}
    made = bytes_of(out)
    assert {name for name in made if made[name] != good[name]} == {"rejects.jsonl", "report.json"}
    with pytest.raises(DataError, match=r"13 of 19 documents give no passage(.|\n)*bomb\.docx: zip bomb(.|\n)*8 more"):
        stage(unreadable="refuse")


def test_a_line_of_fifty_megabytes_is_refused_by_its_size_or_its_text(docs: Path, stage: Stage) -> None:
    (docs / "line.txt").write_text("Ada keeps a heron in Fallmouth. " * 1_600_000)
    assert rejects(stage()) == {"line.txt": "too large"}
    bounds = configured().bounds.model_dump() | {"max_bytes": 10**8}
    assert rejects(stage(bounds=bounds)) == {"line.txt": "too much text"}


def test_a_long_line_is_passages_where_the_bounds_allow_it(docs: Path, stage: Stage) -> None:
    (docs / "line.txt").write_text("Ada keeps a heron in Fallmouth. " * 25_000)
    chunks = [chunk for chunk in read_chunks(stage()) if chunk.document == "manuals/line.txt"]
    assert sum(len(chunk.text.split()) for chunk in chunks) == 25_000 * 6
    assert max(len(chunk.text.split()) for chunk in chunks) <= configured().chunk.words


def test_ten_thousand_empty_files_are_counted(docs: Path, stage: Stage) -> None:
    (docs / "many").mkdir()
    for number in range(10_000):
        (docs / f"many/{number}.txt").touch()
    counted = report(stage())["sources"]["manuals"]
    assert counted["left_out"]["empty"]["count"] == 10_000
    assert counted["documents"] == 6


def test_nothing_but_unreadable_documents_is_an_error(workspace: Path, stage: Stage) -> None:
    (workspace / "docs").mkdir()
    with pytest.raises(DataError, match="source 'manuals' has no document"):
        stage()
    (workspace / "docs/a.txt").touch()
    with pytest.raises(DataError, match=r"no document gives a passage:\n  manuals/a\.txt: empty"):
        stage()


def test_the_documents_of_a_folder_can_be_pinned(docs: Path, stage: Stage) -> None:
    digest = report(stage())["sources"]["manuals"]["sha256"]
    pinned = {"manuals": configured().sources["manuals"].model_dump() | {"sha256": digest}}
    stage(sources=pinned)
    (docs / "a.txt").write_text("Other.")
    with pytest.raises(DataError, match="the recipe pins"):
        stage(sources=pinned)


def test_a_broken_cache_is_made_anew(docs: Path, stage: Stage) -> None:
    first = bytes_of(stage())
    (cache,) = Path(".polm/retrieval").iterdir()
    cache.write_bytes(b"no table at all" * 1000)
    assert bytes_of(stage()) == first


def test_two_sources_keep_their_documents_and_licences_apart(docs: Path, stage: Stage) -> None:
    (docs.parent / "more").mkdir()
    (docs.parent / "more/a.txt").write_text("Cid Orr keeps bees.")
    sources = {"manuals": configured().sources["manuals"].model_dump()}
    sources["also"] = sources["manuals"] | {"folder": "more", "licence": "MIT"}
    out = stage(sources=sources)
    chunks: list[Chunk] = read_chunks(out)
    assert chunks[0].document == "also/a.txt"
    assert chunks[0].source == "also"
    assert {name: of["licence"] for name, of in report(out)["sources"].items()} == {"also": "MIT", "manuals": "CC0-1.0"}
    assert report(out)["documents"] == 7


def test_the_settings_of_tiny_are_valid() -> None:
    loaded = recipe_config.load(REPO / "params/tiny/passages.yaml", rag_chunks.Config)
    assert loaded.sources["facts"].licence == "CC0-1.0"
