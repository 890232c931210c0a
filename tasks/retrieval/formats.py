"""Which format a file is in, and what its reader makes of it. Every fault of a file comes out as `Unreadable`."""

import codecs
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field

from tasks.retrieval.extracted import Extracted, Unreadable, clean
from tasks.retrieval.hypertext import charset, read_html
from tasks.retrieval.markdown import read_markdown
from tasks.retrieval.pdf import read_pdf
from tasks.retrieval.plain import read_plain
from tasks.retrieval.restructured import read_rst
from tasks.retrieval.word import read_docx
from tasks.stage.config import Strict

Format = Literal["text", "markdown", "rst", "html", "pdf", "docx"]
SUFFIXES: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "rst",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}
_SIGNATURES = {b"%PDF-": "a PDF", b"PK\x03\x04": "a zip archive, as DOCX is", b"\xd0\xcf\x11\xe0": "an old Word file"}
"""First bytes of what is no text, whatever its name says."""


class Bounds(Strict):
    """The most that one document may take. What is above is unreadable, and named."""

    max_bytes: int = Field(ge=1)
    """Of a file. A larger one is not opened."""
    max_unpacked_bytes: int = Field(ge=1)
    """Of the files inside a DOCX together: a small file may unpack to gigabytes."""
    max_characters: int = Field(ge=1)
    """Of a document's extracted text."""


def format_of(name: str) -> Format:
    """Tell a document's format by its name's suffix. Raises Unreadable for one that no reader knows."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES:
        said = f"the suffix '{suffix}'" if suffix else "no suffix"
        raise Unreadable("unknown format", f"{said}; known: {', '.join(SUFFIXES)}; or give the source a 'format'")
    return SUFFIXES[suffix]


def extract(data: bytes, name: Format, bounds: Bounds, within: str | None = None) -> Extracted:
    """Read a document.

    Args:
        data: the file's bytes, or a text in UTF-8.
        name: the format.
        bounds: of the recipe.
        within: for HTML, the XPath of the element to read.

    Returns:
        Its text, with at least one letter or digit.

    Raises:
        Unreadable: whatever is wrong with it.
    """
    if not data.strip():
        raise Unreadable("empty", "not one character")
    limit = bounds.max_characters
    try:
        if name == "pdf":
            extracted = read_pdf(data, limit)
        elif name == "docx":
            extracted = read_docx(data, limit, bounds.max_unpacked_bytes)
        elif name == "html":
            extracted = read_html(_decoded(data, charset(data)), limit, within)
        else:
            readers = {"text": read_plain, "markdown": read_markdown, "rst": read_rst}
            extracted = readers[name](clean(_decoded(data, "utf-8")), limit)
    except (Unreadable, MemoryError):
        raise
    except RecursionError:
        raise Unreadable(f"broken {name}", "its parts are nested too deep") from None
    except Exception as e:  # the parsers raise anything on a file that was made to break them
        raise Unreadable(f"broken {name}", f"{type(e).__name__}: {e}") from None
    if not any(character.isalnum() for character in extracted.text):
        raise Unreadable("without words", f"nothing to read as {name}")
    return extracted


def _decoded(data: bytes, encoding: str) -> str:
    """Decode text. Raises Unreadable for other bytes than the encoding has, and for what is another format."""
    for signature, what in _SIGNATURES.items():
        if data.startswith(signature):
            raise Unreadable("wrong format", f"its bytes are {what}; name it so, or give the source a 'format'")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\x00" in data:
        raise Unreadable("not text", "it holds NUL bytes: another encoding than UTF-8, or no text at all")
    if data.startswith(codecs.BOM_UTF8):
        data, encoding = data[len(codecs.BOM_UTF8) :], "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as e:
        what = "UTF-8" if encoding.lower() in ("utf-8", "utf8") else f"{encoding}, which it declares"
        raise Unreadable(f"not {what}", f"at byte {e.start}; save it as UTF-8") from None
    except LookupError:
        raise Unreadable("unknown encoding", f"it declares {encoding!r}; save it as UTF-8") from None
