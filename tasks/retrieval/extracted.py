"""What a reader of a format makes of a document: its text, the blocks that it consists of, the headings above them.

The text is the blocks with an empty line between them, in Unicode's composed form (NFC), with `\\n` as the line end and
without control characters. Every offset of a chunk refers to it.
"""

import re
import unicodedata
from dataclasses import dataclass, field

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
"""What neither a person nor Parquet can read: control characters, lone surrogates, byte order marks."""
_BETWEEN = "\n\n"


class Unreadable(Exception):
    """A document that gives no passages. It costs that document alone."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Keep both parts.

        Args:
            reason: few fixed words, by which the report counts: `encrypted PDF`.
            detail: what is known of this document, and what to do.
        """
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Block:
    """A heading, a paragraph, a list item, a row of a table, or a piece of code."""

    start: int
    """Offset of its first character in the text."""
    end: int
    """Offset behind its last character."""
    title: tuple[str, ...]
    """Headings above it, the outermost first, without itself."""
    level: int = 0
    """Level of a heading, 1 for the outermost; 0 for anything else."""
    lines: bool = False
    """Whether it is cut at the ends of lines, as code is, and not at those of sentences."""


@dataclass(frozen=True)
class Extracted:
    """A document's text and its blocks, in the order of the text."""

    text: str
    blocks: list[Block]


@dataclass
class Draft:
    """A text that a reader writes block by block."""

    limit: int
    """Most characters, `max_characters` of the recipe."""
    _parts: list[str] = field(default_factory=list)
    _blocks: list[Block] = field(default_factory=list)
    _path: list[tuple[int, str]] = field(default_factory=list)
    _length: int = 0

    def heading(self, level: int, text: str) -> None:
        """Begin a section.

        Args:
            level: 1 for the outermost; sections of the same level and below it end.
            text: of the heading, on one line. Without any, the sections above end and none begins.

        Raises:
            Unreadable: the text has more characters than the limit.
        """
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        title = " ".join(clean(text).split())
        if title:
            self._add(title, level=level)
            self._path.append((level, title))

    def block(self, text: str, *, lines: bool = False) -> None:
        """Add a block below the headings so far; one without a visible character is passed over.

        Args:
            text: of the block.
            lines: whether it is cut at the ends of lines, as code is.

        Raises:
            Unreadable: the text has more characters than the limit.
        """
        text = clean(text)
        text = text.strip("\n").rstrip() if lines else text.strip()
        if text.strip():
            self._add(text, lines=lines)

    def _add(self, text: str, *, level: int = 0, lines: bool = False) -> None:
        start = self._length + len(_BETWEEN) if self._parts else 0
        end = start + len(text)
        if end > self.limit:
            raise Unreadable("too much text", f"more than max_characters {self.limit:,}; split it, or raise the bound")
        self._parts.append(text)
        self._blocks.append(Block(start, end, tuple(title for _, title in self._path), level, lines))
        self._length = end

    def finish(self) -> Extracted:
        """Return the text and its blocks."""
        return Extracted(_BETWEEN.join(self._parts), self._blocks)


def clean(text: str) -> str:
    """Compose characters (NFC), make every line end `\\n`, and put a space for what cannot be read."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
    return unicodedata.normalize("NFC", _CONTROL.sub(" ", text))
