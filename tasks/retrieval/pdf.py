"""PDF, by pypdf: the text of each page, whose number is in the title. Pictures are not read, and no script runs."""

import io
import logging

from tasks.retrieval.extracted import Draft, Extracted, Unreadable

_TAIL = 2048
"""Bytes at the end of a file among which its end mark has to be."""


def read_pdf(data: bytes, limit: int) -> Extracted:
    """Read a PDF whose text can be copied.

    Args:
        data: the file.
        limit: most characters.

    Raises:
        Unreadable: it is cut off, opens with a password alone, has no text on any page, or more characters than the
            limit.
    """
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it mends, page by page
    if b"%%EOF" not in data[-_TAIL:]:
        raise Unreadable("truncated PDF", "its end mark is missing; fetch the file again")
    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("encrypted PDF", "it opens with a password alone; save a copy without one")
    draft = Draft(limit)
    for number, page in enumerate(reader.pages, 1):
        text = page.extract_text()
        if text.strip():
            draft.heading(1, f"page {number}")
            draft.block(text)
    extracted = draft.finish()
    if not extracted.text:
        raise Unreadable("PDF without text", "if its pages are scans, run text recognition on it first")
    return extracted
