"""HTML: the text that a person would see, by lxml. Nothing is fetched, no script runs.

Left out: scripts, styles, templates, navigation (`nav`), what is hidden, and the `¶` links that Sphinx puts beside
headings. Pictures count by their `alt`. What Sphinx describes (`<dt class="sig">`) is a heading above its description.
"""

import re
from typing import Any

from tasks.retrieval.extracted import Draft, Extracted, Unreadable

UNSEEN = {
    "head", "script", "style", "template", "noscript", "nav", "svg", "math", "iframe", "object", "embed",
    "select", "button", "datalist",
}  # fmt: skip
"""Elements without text for a reader. MathML is left out too: its characters alone say something else."""
BLOCKS = {
    "html", "body", "address", "article", "aside", "blockquote", "caption", "center", "dd", "details", "dialog",
    "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5",
    "h6", "header", "hgroup", "hr", "legend", "li", "main", "menu", "ol", "p", "pre", "search", "section",
    "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
}  # fmt: skip
"""Elements that begin and end a block."""
CELLS = {"td", "th"}
_HEADING = re.compile(r"h([1-6])")
_LOWEST = 6
"""Level of `h6`; what is described stands below every heading of the page."""
_CHARSET = re.compile(rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I)
_LOOKED_AT = 4096
"""Bytes at the start of a page among which its encoding is looked for."""


def charset(data: bytes) -> str:
    """Say which encoding a page declares; `utf-8` without a declaration."""
    found = _CHARSET.search(data[:_LOOKED_AT])
    return found[1].decode("ascii") if found else "utf-8"


def read_html(text: str, limit: int, within: str | None = None) -> Extracted:
    """Read a page.

    Args:
        text: the page, decoded.
        limit: most characters.
        within: XPath of the element to read, the first that matches; None reads the whole page.

    Raises:
        Unreadable: the page is no HTML, is nested too deep, has no such element, or more characters than the limit.
    """
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True, huge_tree=True)
    try:
        root = etree.fromstring(text.encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError as e:
        raise Unreadable("broken HTML", str(e)) from None
    if root is None:
        raise Unreadable("broken HTML", "there is no element in it")
    if any(error.level_name == "FATAL" for error in parser.error_log):
        raise Unreadable("broken HTML", str(parser.error_log.filter_from_fatals()[0].message))
    if within is not None:
        matches = root.xpath(within)
        if not isinstance(matches, list) or not matches or not isinstance(matches[0], etree._Element):
            raise Unreadable("not the expected page", f"no element matches 'within: {within}'")
        root = matches[0]
    page = _Page(limit)
    page.read(root)
    return page.draft.finish()


class _Page:
    """Collects the text of inline elements until a block begins or ends."""

    def __init__(self, limit: int) -> None:
        self.draft = Draft(limit)
        self._inline: list[str] = []
        self._row: list[str] | None = None
        self._code = 0
        self._lists = 0

    def read(self, root: Any) -> None:
        """Walk the tree; not by recursion, for pages may be nested by the thousand."""
        from lxml import etree

        events = etree.iterwalk(root, events=("start", "end"))
        unseen = None
        for event, element in events:
            if unseen is not None:
                if event == "end" and element is unseen:
                    unseen = None
                    self._tail(element, root)
                continue
            if event == "start":
                if _is_unseen(element):
                    unseen = element
                    continue
                self._start(element)
            else:
                self._end(element)
                self._tail(element, root)
        self._flush()

    def _start(self, element: Any) -> None:
        tag = element.tag
        if tag in BLOCKS and tag not in CELLS:
            self._flush()
        if tag == "tr":
            self._row = []
        elif tag in CELLS:
            self._cell()
        elif tag == "pre":
            self._code += 1
        elif tag == "dl":
            self._lists += 1
        elif tag == "br":
            self._inline.append("\n")
        elif tag == "img":
            self._inline.append(f" {element.get('alt') or ''} ")
        self._inline.append(element.text or "")

    def _end(self, element: Any) -> None:
        tag = element.tag
        if heading := _HEADING.fullmatch(str(tag)):
            self.draft.heading(int(heading[1]), self._taken())
        elif tag == "dt" and "sig" in (element.get("class") or "").split():
            self.draft.heading(_LOWEST + self._lists, self._taken())
        elif tag in CELLS:
            self._cell()
        elif tag in BLOCKS:
            self._flush()
        if tag == "tr":
            self._row = None
        elif tag == "pre":
            self._code -= 1
        elif tag == "dl":
            self.draft.heading(_LOWEST + self._lists, "")
            self._lists -= 1

    def _tail(self, element: Any, root: Any) -> None:
        if element is not root:
            self._inline.append(element.tail or "")

    def _cell(self) -> None:
        """End a cell of a table; a row is one block, with bars between its cells."""
        text = " ".join(self._taken().split())
        if not text:
            return
        if self._row is None:
            self.draft.block(text)
        else:
            self._row.append(text)

    def _flush(self) -> None:
        if self._row:
            row, self._row = self._row, []
            rest = " ".join(self._taken().split())
            self.draft.block(" | ".join([*row, rest] if rest else row))
        elif self._code:
            self.draft.block(self._taken(), lines=True)
        else:
            self.draft.block(" ".join(self._taken().split()))

    def _taken(self) -> str:
        text = "".join(self._inline)
        self._inline = []
        return text


def _is_unseen(element: Any) -> bool:
    if not isinstance(element.tag, str) or element.tag in UNSEEN or element.get("hidden") is not None:
        return True
    if element.tag == "a" and "headerlink" in (element.get("class") or "").split():
        return True
    return "display:none" in (element.get("style") or "").replace(" ", "").lower()
