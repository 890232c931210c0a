"""DOCX, by python-docx: paragraphs, list items and rows of tables in their order, headings as titles.

Not read: headers and footers of pages, footnotes, comments, text boxes, and files that it embeds or links to.
"""

import io
import re
import zipfile
from typing import Any

from tasks.retrieval.extracted import Draft, Extracted, Unreadable

_HEADING = re.compile(r"heading ([1-9])", re.I)
_MEMBERS = 10_000
"""Most files in an archive."""
_PART = 1 << 20
"""Bytes that are unpacked at once."""


def read_docx(data: bytes, limit: int, unpacked: int) -> Extracted:
    """Read a document of Word.

    Args:
        data: the file.
        limit: most characters.
        unpacked: most bytes of the files in it together, as they declare and as they are.

    Raises:
        Unreadable: it is no DOCX, is cut off, has a password, is a zip bomb, or has more characters than the limit.
    """
    import docx
    from docx.table import Table

    _check_archive(data, unpacked)
    draft = Draft(limit)
    for item in docx.Document(io.BytesIO(data)).iter_inner_content():
        if isinstance(item, Table):
            _table(item, draft)
            continue
        level = _level(item)
        if level:
            draft.heading(level, item.text)
        else:
            draft.block(item.text)
    return draft.finish()


def _level(paragraph: Any) -> int:
    """Say which level of heading a paragraph is, by its style; 0 for text."""
    name = paragraph.style.name or "" if paragraph.style is not None else ""
    if heading := _HEADING.fullmatch(name):
        return 1 + int(heading[1])
    return 1 if name == "Title" else 0


def _table(table: Any, draft: Draft) -> None:
    """Add each row as a block, with bars between its cells. A cell that reaches over several columns counts once."""
    for row in table.rows:
        cells = {id(cell._tc): " ".join(cell.text.split()) for cell in row.cells}
        draft.block(" | ".join(text for text in cells.values() if text))


def _check_archive(data: bytes, unpacked: int) -> None:
    """Unpack every file in blocks, to nowhere, before a parser does it whole. Raises Unreadable."""
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable("no DOCX", "an old .doc, or one with a password; save it as .docx without one")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS or sum(member.file_size for member in members) > unpacked:
                raise Unreadable("zip bomb", f"it would unpack to more than max_unpacked_bytes {unpacked:,}")
            if "word/document.xml" not in archive.namelist():
                raise Unreadable("no DOCX", "a zip archive without word/document.xml")
            left = unpacked
            for member in members:
                with archive.open(member) as file:
                    while part := file.read(_PART):
                        left -= len(part)
                        if left < 0:
                            raise Unreadable("zip bomb", f"it unpacks to more than max_unpacked_bytes {unpacked:,}")
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as e:
        raise Unreadable("broken DOCX", f"{e}; is it cut off?") from None
    except zipfile.zlib.error as e:  # type: ignore[attr-defined]
        raise Unreadable("broken DOCX", f"{e}; is it cut off?") from None
