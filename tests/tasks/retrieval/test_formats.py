"""Formats: bytes to text, and every fault of a file as a reason."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.retrieval.extracted import Extracted, Unreadable
from tasks.retrieval.formats import SUFFIXES, Bounds, Format, extract, format_of
from tests.support import documents

BOUNDS = Bounds(max_bytes=10**8, max_unpacked_bytes=10**7, max_characters=10**8)
FORMATS: list[Format] = ["text", "markdown", "rst", "html", "pdf", "docx"]


def read(data: bytes | str, name: Format, **bounds: int) -> Extracted:
    data = data.encode() if isinstance(data, str) else data
    return extract(data, name, BOUNDS.model_copy(update=bounds))


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=40)
@given(data=st.one_of(st.binary(max_size=400), st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore"))))
def test_any_bytes_are_read_or_refused_and_never_crash(name: Format, data: bytes) -> None:
    try:
        document = read(data, name)
    except Unreadable as e:
        assert e.reason
        return
    text = document.text
    assert unicodedata.is_normalized("NFC", text)
    assert text.encode()
    assert not {"\r", "\0"} & set(text)
    covered = "\n\n".join(text[block.start : block.end] for block in document.blocks)
    assert covered == text


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"", "text", "empty"),
        (b" \n\t", "markdown", "empty"),
        (b"... --- ***", "text", "without words"),
        (b"\xff\xfe a", "text", "not text"),
        (b"caf\xe9 au lait", "text", "not UTF-8"),
        (b"a\x00b", "markdown", "not text"),
        (b"%PDF-1.7 rest", "text", "wrong format"),
        (b"PK\x03\x04rest", "html", "wrong format"),
        (b"<html><meta charset='klingon'><p>a", "html", "unknown encoding"),
        (b"<script>var only = 1</script>", "html", "without words"),
        (b"%PDF-1.7 cut off", "pdf", "truncated PDF"),
        (b"no PDF at all %%EOF", "pdf", "broken pdf"),
        (b"no archive", "docx", "broken DOCX"),
        (b"\xd0\xcf\x11\xe0 old", "docx", "no DOCX"),
        (documents.pdf(["Ada."])[:-600], "pdf", "truncated PDF"),
        (documents.pdf(["", ""]), "pdf", "PDF without text"),
        (documents.pdf(["Ada."], password="secret"), "pdf", "encrypted PDF"),
        (documents.docx([("Ada.", "Normal")])[:-100], "docx", "broken DOCX"),
        (documents.zip_bomb(20), "docx", "zip bomb"),
        (documents.lying_bomb(20), "docx", "broken DOCX"),
        ("<div>" * 3000 + "deep", "html", "broken HTML"),
        ("> " * 300 + "deep", "markdown", "broken markdown"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_a_fault_has_a_reason(data: bytes | str, name: Format, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(data, name)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["text", "markdown", "rst", "html"])
def test_more_characters_than_the_bound_are_refused(name: Format) -> None:
    assert read("Ada " * 20, name, max_characters=100).text
    with pytest.raises(Unreadable, match="too much text"):
        read("Ada " * 100, name, max_characters=100)


def test_a_page_is_decoded_as_it_declares() -> None:
    page = "<html><head><meta charset='windows-1252'></head><body>café</body></html>".encode("cp1252")
    assert read(page, "html").text == "café"
    assert read(b"\xef\xbb\xbf<p>caf\xc3\xa9</p>", "html").text == "café"


def test_text_is_composed_and_its_lines_end_in_one_way() -> None:
    assert read("cafe\u0301\r\nnext\rlast\x07", "text").text == "café\nnext\nlast"


def test_a_suffix_tells_the_format_and_others_are_named() -> None:
    assert format_of("a/b.MD") == "markdown"
    assert {format_of(f"x{suffix}") for suffix in SUFFIXES} == set(FORMATS)
    for name in ("a.exe", "Makefile"):
        with pytest.raises(Unreadable, match="unknown format"):
            format_of(name)


@pytest.mark.parametrize(
    "line",
    ["word " * 10, "." * 50, '."' * 25, "! " * 25, "a. " * 17, "é" * 25],
    ids=["words", "dots", "quoted dots", "marks", "initials", "letters"],
)
def test_time_grows_with_the_length_of_a_line_and_not_faster(line: str) -> None:
    from tasks.retrieval.chunker import ChunkSettings, pieces

    chunk = ChunkSettings(words=40, overlap=10, characters=400, join=True)

    def seconds(times: int) -> float:
        """Processor time of the quickest of three readings; others on the machine only ever add to it."""
        text, taken = "Ada " + line * times, []
        for _ in range(3):
            start = time.thread_time()
            assert pieces(read(text, "text"), chunk)
            taken.append(time.thread_time() - start)
        return min(taken)

    # Eight times the length; what grows with its square would take 64 times as long.
    assert seconds(8_000) < 8 * 4 * max(seconds(1_000), 0.005)
