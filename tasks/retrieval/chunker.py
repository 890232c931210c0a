"""Documents to passages: by structure first, by length second.

A passage never reaches over a heading. Within a section whole blocks (paragraphs, list items) are put together as long
as they fit, if the recipe says so; a block that alone is too long is cut at the ends of its sentences, or of its lines
if it is code; a sentence that is too long at a space; a word that is too long anywhere. Every word of the document is
in the text or in the title of a passage: a heading is a title, and the text of a passage of its own where nothing
stands below it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field, model_validator

from tasks.retrieval.extracted import Block, Extracted
from tasks.stage.config import Strict

_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"""(?:(?<![.!?…])[.!?…]++["'”’»)\]]*+(?=\s)|[。！？]++["”’」』）]*+)\s*+""")
"""Possessive, and only from the first of a row of marks: a megabyte of full stops takes one pass."""
_LINE_END = re.compile(r"\n+")
_NO_END = re.compile(
    r"""(?:^|[\s("'“‘\[])(?:[A-Z]|e\.g|i\.e|cf|vs|etc|al|approx|Dr|Mrs?|Ms|Prof|St|Fig|No|Vol|pp?)\.$"""
)
"""What ends with a full stop and ends no sentence: an initial, an abbreviation."""
_LONGEST = 12
"""Characters that are looked at before a full stop: more than the longest abbreviation has."""


class ChunkSettings(Strict):
    """The length of passages. A word is what stands between white space."""

    words: int = Field(ge=1)
    """Most words of a passage."""
    overlap: int = Field(ge=0)
    """Most words that a passage repeats from the end of the one before it, of the same section: whole sentences where
    one fits."""
    characters: int = Field(ge=20)
    """Most characters of a passage: the bound for text without spaces."""
    join: bool
    """Whether blocks of a section are put together as long as they fit; false: a passage is of one block alone."""

    @model_validator(mode="after")
    def _overlap_is_less(self) -> "ChunkSettings":
        """Refuse passages that would only repeat."""
        if self.overlap * 2 > self.words:
            raise ValueError(f"overlap {self.overlap} is more than half of words {self.words}; take less")
        return self


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage within its document."""

    start: int
    """Offset of its first character in the extracted text."""
    end: int
    """Offset behind its last character."""
    title: tuple[str, ...]
    """Headings above it, the outermost first."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """The smallest part that is not parted: a block, a sentence, or less where these are too long."""

    start: int
    end: int
    words: int
    block: int
    """Number of its block."""


def pieces(document: Extracted, settings: ChunkSettings) -> list[Piece]:
    """Cut a document into passages, in the order of their starts.

    Args:
        document: text and blocks.
        settings: lengths.

    Returns:
        Passages without white space at either end, each within the bounds; with `overlap` 0 none shares a character
        with another one. Empty for a document without text.
    """
    found: list[Piece] = []
    for title, blocks in _sections(document.blocks):
        units = [unit for at, block in enumerate(blocks) for unit in _units(document.text, block, at, settings)]
        found += [Piece(start, end, title) for start, end in _packed(document.text, units, settings)]
    return found


def _sections(blocks: list[Block]) -> Iterator[tuple[tuple[str, ...], list[Block]]]:
    """Yield the blocks below each heading; a heading without anything below it is a section by itself."""
    section: list[Block] = []
    for at, block in enumerate(blocks):
        if section and (block.level or block.title != section[0].title):
            yield section[0].title, section
            section = []
        if not block.level:
            section.append(block)
        elif at + 1 == len(blocks) or len(blocks[at + 1].title) <= len(block.title):
            yield block.title, [block]
    if section:
        yield section[0].title, section


def _units(text: str, block: Block, at: int, settings: ChunkSettings) -> Iterator[_Unit]:
    """Yield a block whole if it fits, and its sentences or lines if not."""
    words = _count(text, block.start, block.end)
    if words <= settings.words and block.end - block.start <= settings.characters:
        yield _Unit(block.start, block.end, words, at)
        return
    for start, end in _lines(text, block) if block.lines else sentences(text, block.start, block.end):
        words = _count(text, start, end)
        if words <= settings.words - settings.overlap and end - start <= settings.characters:
            yield _Unit(start, end, words, at)
        else:
            yield from _cut(text, start, end, at, settings)


def _cut(text: str, start: int, end: int, at: int, settings: ChunkSettings) -> Iterator[_Unit]:
    """Cut a long sentence between words; a word longer than a passage anywhere."""
    begin, last, count = start, start, 0
    for match in _WORD.finditer(text, start, end):
        first, after = match.span()
        if count and (count == settings.words - settings.overlap or after - begin > settings.characters):
            yield _Unit(begin, last, count, at)
            count = 0
        if not count:
            begin = first
        while after - begin > settings.characters:  # nothing but this one word
            yield _Unit(begin, begin + settings.characters, 1, at)
            begin += settings.characters
        last, count = after, count + 1
    if last > begin:
        yield _Unit(begin, last, count, at)


def _packed(text: str, units: list[_Unit], settings: ChunkSettings) -> Iterator[tuple[int, int]]:
    """Yield the spans of passages: as many whole blocks as fit, and of a block that was cut as many parts."""
    at, before = 0, None
    while at < len(units):
        room = settings.words - (settings.overlap if before else 0)
        first = last = at
        words = units[at].words
        while last + 1 < len(units) and _fits(units, first, last + 1, words, room, settings):
            last += 1
            words += units[last].words
        start, end = units[first].start, units[last].end
        if before and settings.overlap:
            start = _overlapping(text, before, start, end, words, settings)
        yield start, end
        before, at = (start, units[last].end), last + 1


def _fits(units: list[_Unit], first: int, at: int, words: int, room: int, settings: ChunkSettings) -> bool:
    """Whether a passage may go on with a unit: with the whole block that it begins, or its part of one."""
    end, more = units[at].end, units[at].words
    cut = at + 1 < len(units) and units[at + 1].block == units[at].block
    if units[at].block != units[at - 1].block and (cut or not settings.join):
        return False  # a block that has to be cut begins a passage of its own
    return words + more <= room and end - units[first].start <= settings.characters


def _overlapping(text: str, before: tuple[int, int], start: int, end: int, words: int, settings: ChunkSettings) -> int:
    """Move a passage's start into the one before it: to the start of a sentence, or of a word where none is near."""
    room = min(settings.overlap, settings.words - words)
    earliest = max(before[0] + 1, end - settings.characters)
    starts = [match.start() for match in _WORD.finditer(text, earliest, before[1])]
    if earliest > 0 and starts and not text[earliest - 1].isspace():
        starts = starts[1:]  # `earliest` is in the middle of this word
    starts = starts[-room:] if room else []
    if not starts:
        return start
    of_sentences = [begin for begin, _ in sentences(text, before[0], before[1]) if begin >= starts[0]]
    return of_sentences[0] if of_sentences else starts[0]


def sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of sentences between two offsets, without white space around them.

    A sentence ends with its punctuation where white space and no small letter follows, not behind an initial (`J.`) or
    a usual abbreviation.
    """
    begin = start
    for match in _SENTENCE_END.finditer(text, start, end):
        after = match.end()
        if after >= end:
            break
        stop = match.start() + 1
        if text[match.start()] == "." and (
            text[after].islower() or _NO_END.search(text[max(start, stop - _LONGEST) : stop])
        ):
            continue
        yield from _stripped(text, begin, after)
        begin = after
    yield from _stripped(text, begin, end)


def _lines(text: str, block: Block) -> Iterator[tuple[int, int]]:
    begin = block.start
    for match in _LINE_END.finditer(text, block.start, block.end):
        yield from _stripped(text, begin, match.start())
        begin = match.end()
    yield from _stripped(text, begin, block.end)


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the span without white space at its ends, if anything is left."""
    part = text[start:end]
    if stripped := part.strip():
        first = start + len(part) - len(part.lstrip())
        yield first, first + len(stripped)


def _count(text: str, start: int, end: int) -> int:
    return sum(1 for _ in _WORD.finditer(text, start, end))
