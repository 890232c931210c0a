"""Markdown, as CommonMark with tables, by markdown-it-py: its headings are titles, its code is cut at lines.

Links and emphasis count by their words, pictures by their description. HTML in it is read as `hypertext.py` does. What
YAML some programs put at the top, between two lines of `---`, is a block like others.
"""

import re
from typing import Any

from tasks.retrieval.extracted import Draft, Extracted, Unreadable
from tasks.retrieval.hypertext import read_html

_FRONT_MATTER = re.compile(r"---\n(.*?\n)---[ \t]*(?:\n|$)", re.S)
_NESTING = 100
"""Most levels, of which a list takes two; the parser leaves out what is nested deeper."""


def read_markdown(text: str, limit: int) -> Extracted:
    """Read Markdown.

    Args:
        text: with `\\n` at the ends of lines.
        limit: most characters.

    Raises:
        Unreadable: more characters than the limit, or lists or quotations that are nested too deep.
    """
    from markdown_it import MarkdownIt

    draft = Draft(limit)
    if front := _FRONT_MATTER.match(text):
        draft.block(front[1], lines=True)
        text = text[front.end() :]
    level = 0
    row: list[str] | None = None
    for token in MarkdownIt("commonmark", {"maxNesting": _NESTING}).enable("table").parse(text):
        if token.level >= _NESTING - 2:
            raise Unreadable("broken markdown", f"its lists or quotations are nested deeper than {_NESTING // 2}")
        if token.type == "heading_open":
            level = int(token.tag[1])
        elif token.type == "tr_open":
            row = []
        elif token.type == "tr_close":
            draft.block(" | ".join(row or []))
            row = None
        elif token.type == "inline":
            words = _inline(token.children or [], limit)
            if row is not None:
                row.append(" ".join(words.split()))
            elif level:
                draft.heading(level, words)
                level = 0
            else:
                draft.block(words)
        elif token.type in ("fence", "code_block"):
            draft.block(token.content, lines=True)
        elif token.type == "html_block":
            draft.block(_html(token.content, limit))
    return draft.finish()


def _inline(tokens: list[Any], limit: int) -> str:
    """Join the words of a paragraph; tags in it are left out, and what stands in a script."""
    parts = []
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type == "image":
            parts.append(_inline(token.children or [], limit))
        elif token.type != "html_inline":
            parts.append(token.content)
    return "".join(parts)


def _html(text: str, limit: int) -> str:
    return read_html(f"<div>{text}</div>", limit).text
