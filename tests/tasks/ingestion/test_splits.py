"""Sides of the split: what is tied together stays together, over random ties, and what is published stays whole."""

import random

import pytest

from tasks.ingestion.cleaning import split_of
from tasks.ingestion.ledger import Item, Ledger
from tasks.ingestion.pictures import Picture
from tasks.ingestion.settings import Set
from tasks.ingestion.splits import DisjointSets, settle


def spec(split: str) -> Set:
    return Set.model_validate(
        {"near_duplicates": False, "rows": [{"source": "mine", "split": split, "limit": None, "map": {}}]}
    )


def item(name: str, group: str, *families: str) -> Item:
    shown = tuple(Picture(f"{family}.png", family, family) for family in families)
    row = {"question": group or "Q?", "answer": "A."}
    return Item(name, row, "mine", 0, "rows.jsonl", 1, group=group, pictures=shown)


def side(group: str, tested: bool) -> str:
    return split_of(group, 0, 0.3, 0.3 if tested else 0)


def settled(sets: dict[str, Set], *items: Item) -> tuple[dict[str, list[Item]], dict[str, str], Ledger]:
    mapped: dict[str, list[Item]] = {name: [] for name in sets}
    for row in items:
        mapped[row.set].append(row)
    ledger = Ledger(3, [])
    return mapped, settle(mapped, sets, side, ledger), ledger


@pytest.mark.parametrize("seed", range(20))
def test_no_group_and_no_family_is_parted_and_no_row_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    sets = {"sft": spec("hash"), "preferences": spec("hash"), "eval:quiz": spec("hash")}
    items = []
    for i in range(60):
        families = [f"f{rng.randrange(50)}" for _ in range(rng.choice((0, 1, 1, 2)))]
        group = rng.choice((f"g{rng.randrange(40)}", f"own {i}" if not families else ""))
        items.append(item(rng.choice(list(sets)), group, *families))
    mapped, groups, _ = settled(sets, *items)
    kept = [row for rows in mapped.values() for row in rows]
    assert len(kept) == len(items)
    sides: dict[str, set[str]] = {}
    for row in kept:
        for name in (f"group {row.group}", *row.families):
            sides.setdefault(name, set()).add(row.split)
        assert groups.get(row.group, row.split) == row.split
    assert all(len(found) == 1 for found in sides.values())
    assert {row.split for row in kept} == {"train", "validation", "test"}


def test_a_group_that_nothing_ties_goes_where_its_name_goes() -> None:
    rows = [item("sft", f"g{i}", f"f{i}") for i in range(50)]
    _, groups, _ = settled({"sft": spec("hash")}, *rows)
    assert groups == {}
    assert [row.split for row in rows] == [side(f"g{i}", True) for i in range(50)]


def test_a_published_training_set_holds_nothing_back_for_tests() -> None:
    rows = [item("sft", "", f"f{i}") for i in range(50)]
    settled({"sft": spec("published")}, *rows)
    assert {row.split for row in rows} == {"train", "validation"}


def test_what_a_published_test_shows_is_test_and_ties_nothing() -> None:
    sets = {"sft": spec("published"), "eval:quiz": spec("published"), "eval:own": spec("hash")}
    name = next(f"g{i}" for i in range(99) if side(f"g{i}", True) == "train")
    asked = item("eval:quiz", "", "shown")
    leak, mixed, beside = item("sft", "", "shown"), item("sft", "", "other", "shown"), item("sft", name, "other")
    own, torn = item("eval:own", "", "shown", "fresh"), item("eval:own", "", "shown", "other")
    mapped, _, ledger = settled(sets, asked, leak, mixed, beside, own, torn)
    assert [row.split for row in (asked, leak, beside, own)] == ["test", "test", "train", "test"]
    assert mapped["sft"] == [leak, beside]
    assert mapped["eval:own"] == [own]
    assert ledger.why("sft") == {"its pictures are on two sides of the split": 1}


def test_ties_lead_to_the_first_name() -> None:
    ties = DisjointSets()
    for pair in (("d", "c"), ("f", "e"), ("c", "b"), ("e", "d"), ("a", "f")):
        ties.tie(pair)
    assert {ties.find(name) for name in "abcdef"} == {"a"}
    assert ties.find("z") == "z"
