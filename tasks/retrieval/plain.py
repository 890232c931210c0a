"""Plain text: paragraphs between empty lines, no headings."""

import re

from tasks.retrieval.extracted import Draft, Extracted

_EMPTY_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def read_plain(text: str, limit: int) -> Extracted:
    """Read plain text.

    Args:
        text: with `\\n` at the ends of lines.
        limit: most characters.

    Raises:
        Unreadable: more characters than the limit.
    """
    draft = Draft(limit)
    start = 0
    for match in _EMPTY_LINES.finditer(text):
        draft.block(text[start : match.start()])
        start = match.end()
    draft.block(text[start:])
    return draft.finish()
