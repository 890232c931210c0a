"""Which side of the split a row is on, where pictures or sounds tie rows together that their groups alone would part.

Rows of one group, and rows with a picture or sound of one family, belong together whatever set they are in, and so does
what they are tied to in turn. All of them go where the group goes that comes first in the alphabet. A publisher's own
test set is the exception: it stays whole, what it shows is test, and a training row that has some of it is dropped.
"""

from collections.abc import Callable, Iterable

from tasks.ingestion.cleaning import same
from tasks.ingestion.ledger import Item, Ledger
from tasks.ingestion.mapping import first_prompt
from tasks.ingestion.settings import Set

Split = Callable[[str, bool], str]
"""Group, and whether it may be tested, to `train`, `validation` or `test`."""


class DisjointSets:
    """Names that belong together (union and find)."""

    def __init__(self) -> None:
        """Begin with none."""
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        """Return the first name, in the alphabet, of those that this one is tied to."""
        parent = self._parent.setdefault(name, name)
        while parent != self._parent[parent]:
            self._parent[parent] = self._parent[self._parent[parent]]
            parent = self._parent[parent]
        self._parent[name] = parent
        return parent

    def tie(self, names: Iterable[str]) -> None:
        """Tie names together."""
        roots = sorted({self.find(name) for name in names})
        for root in roots[1:]:
            self._parent[root] = roots[0]


def settle(mapped: dict[str, list[Item]], sets: dict[str, Set], split: Split, ledger: Ledger) -> dict[str, str]:
    """Give the rows of sets with media their sides; a row without a group has the family of its first picture or sound.

    Args:
        mapped: all such sets, by name; a row that would have to be on two sides is taken out.
        sets: the recipe's.
        split: makes the side of a group.
        ledger: told of what is taken out.

    Returns:
        The side of every group that media tie to another.
    """
    rows = [row for items in mapped.values() for row in items]
    for row in rows:
        row.group = row.group or (row.families[0] if row.families else same(first_prompt(row.row)).casefold())
    by_hash = {id(row) for row in rows if sets[row.set].rows[row.entry].split == "hash"}
    published = {id(row) for row in rows if row.set.startswith("eval:")} - by_hash
    tested = {family for row in rows if id(row) in published for family in row.ties}
    free = [row for row in rows if id(row) not in published and tested.isdisjoint(row.ties)]
    ties = DisjointSets()
    for row in free:
        ties.tie([_group(row.group), *map(_family, row.ties)])
    root_of = {row.group: ties.find(_group(row.group)) for row in free}
    may_be_tested = {root_of[row.group] for row in free if id(row) in by_hash}
    side_of = {root: split(root[2:], root in may_be_tested) for root in root_of.values()}
    for name, items in mapped.items():
        for row in items:
            row.split = "test"
            if id(row) not in published and tested.isdisjoint(row.ties):
                row.split = side_of[root_of[row.group]]
        torn = [row for row in items if id(row) not in published and _torn(row, tested, ties, side_of)]
        for what in ("pictures", "sounds"):
            rows_with = [row for row in torn if getattr(row, what)]
            ledger.drop_many(name, f"its {what} are on two sides of the split", rows_with)
        gone = set(map(id, torn))
        mapped[name] = [row for row in items if id(row) not in gone]
    return {group: side_of[root] for group, root in root_of.items() if root != _group(group)}


def _torn(row: Item, tested: set[str], ties: DisjointSets, side_of: dict[str, str]) -> bool:
    """Whether a row shows something of a publisher's test set beside something that trains or validates."""
    if tested.isdisjoint(row.ties):
        return False
    others = {side_of.get(ties.find(_family(family)), "test") for family in row.ties if family not in tested}
    return bool(others - {"test"})


def _group(name: str) -> str:
    """Name a group among ties: before every family, so that a group's own name decides where it goes."""
    return f"0:{name}"


def _family(name: str) -> str:
    return f"1:{name}"
