"""Rows of a set that repeat another one of it: exactly, or nearly."""

from collections import defaultdict

from tasks.ingestion import cleaning as clean
from tasks.ingestion.ledger import Item, Ledger
from tasks.ingestion.settings import NearDuplicates
from tasks.ingestion.turns import unlearnt


def unique(name: str, items: list[Item], near: NearDuplicates | None, seed: int, ledger: Ledger) -> list[Item]:
    """Drop exact duplicates (white space aside) and, where the set asks for it, near-duplicates. The first stays.

    Args:
        name: the set.
        items: its rows.
        near: settings of near-duplicates; None where they stay.
        seed: of the hash functions.
        ledger: told of what is dropped.
    """
    firsts: dict[str, Item] = {}
    for item in items:
        first = firsts.setdefault(item.id, item)
        if first is not item:
            ledger.drop(name, "exact duplicate", item, f"{first.file}:{first.line}")
    items = list(firsts.values())
    if near is None:
        return items
    pairs = []
    same_media: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        same_media[item.families].append(i)
    for numbers in same_media.values():
        found = clean.near_duplicates([items[i].key for i in numbers], seed=seed, **near.model_dump())
        pairs += [(numbers[late], numbers[early]) for late, early in found]
    # One conversation may come once for each turn to be learnt of it: its texts are alike, and no row is one too many.
    alike = {late: early for late, early in pairs if unlearnt(items[late].row) == unlearnt(items[early].row)}
    for late, early in alike.items():
        ledger.drop(name, "near-duplicate", items[late], f"{items[early].file}:{items[early].line}")
    return [item for i, item in enumerate(items) if i not in alike]
