"""Rows of one source become items of one set: mapped, cleaned, validated, and given their side of the split."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tasks.ingestion import cleaning as clean
from tasks.ingestion.ledger import Item
from tasks.ingestion.lines import Line, Reject
from tasks.ingestion.mapping import MEDIA, TURNS, columns, first_prompt, render, unused, validate
from tasks.ingestion.media import RowMedia
from tasks.ingestion.settings import Rows, Split
from tasks.ingestion.values import BadRow, Columns

LookAt = Callable[[dict[str, Any]], RowMedia]
"""Finds what a row shows or sounds like. Raises BadRow."""


@dataclass(frozen=True)
class Entry:
    """One entry of a set's `rows`, and what decides what becomes of its rows."""

    set: str
    """The set's name."""
    number: int
    """Which entry of the set, from 0."""
    rows: Rows
    """The entry in the recipe."""
    file: str
    """What rejects name as their file."""
    watched: frozenset[str]
    """Columns of the source that a trainer would look at and that nothing here does."""
    scrub: tuple[clean.Kind, ...]
    """What to scrub."""
    seed: int
    """Of the split."""
    split: Split
    """Shares held out."""

    def side(self, group: str) -> str:
        """Choose a group's side: `train`, `validation` or `test`."""
        if self.rows.split == "published" and self.set.startswith("eval:"):
            return "test"
        test = self.split.test if self.rows.split == "hash" else 0
        return clean.split_of(group, self.seed, self.split.validation, test)


class Mapper:
    """Maps the rows of an entry, or of a part of it, and keeps account of what it leaves out."""

    def __init__(self, entry: Entry, kinds: Columns, look: LookAt | None = None) -> None:
        """Begin.

        Args:
            entry: what to do.
            kinds: the columns of the set so far; is told of every row.
            look: finds a row's pictures and sounds; None where the set has none.
        """
        self._entry = entry
        self._kinds = kinds
        self._look = look
        self._words = {column: value for column, value in entry.rows.map.items() if column not in MEDIA}
        self._used = sorted(columns(entry.rows.map))
        self.scrubbed: Counter[str] = Counter()
        """Kind to how many were replaced, in bad rows too."""
        self.unused: Counter[str] = Counter()
        """Keys and columns that nothing looks at, to the number of rows."""
        self.rejects: list[Reject] = []
        """Rows that could not be used."""
        self.of_another_kind = 0
        """How many of these have a value of another kind than the rows before."""

    def items(self, lines: Iterable[Line]) -> Iterator[Item]:
        """Yield an item for every row that can be used."""
        entry = self._entry
        for line in lines:
            try:
                item, rendered = self._item(line)
            except BadRow as e:
                used = {c: line.row.get(c) for c in self._used}
                self.rejects.append(Reject(entry.file, line.number, str(e), used))
                continue
            self.unused.update(f"message key '{key}'" for key in unused(rendered))
            if entry.watched:
                read = (c for c in entry.watched if line.row.get(c) not in (None, "", [], {}))
                self.unused.update(f"column '{c}'" for c in read)
            yield item

    def _item(self, line: Line) -> tuple[Item, dict[str, Any]]:
        """Make the item of a row, and return the row as the map renders it. Raises BadRow."""
        entry = self._entry
        rendered = clean.walk(render(self._words, line.row), entry.scrub, self.scrubbed)
        row, group = validate(entry.set, rendered), rendered.get("group")
        own = RowMedia() if self._look is None else self._look(line.row)
        row |= own.columns()
        try:
            self._kinds.add({c: v for c, v in row.items() if c not in TURNS}, f"{entry.file}:{line.number}")
        except BadRow:
            self.of_another_kind += 1
            raise
        item = Item(
            entry.set, row, entry.rows.source, entry.number, entry.file, line.number,
            pictures=own.pictures, sounds=own.sounds,
        )  # fmt: skip
        if group is not None or not item.families:  # else its media are its group, once all are known
            group = str(first_prompt(row) if group is None else group)
            item.group = clean.same(group).casefold()
            item.split = entry.side(group)
        return item, rendered
