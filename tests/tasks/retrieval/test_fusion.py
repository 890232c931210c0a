"""Fusion: what both legs add, ties, one leg alone, and the choice on held-out questions."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.retrieval.fusion import Fusion, FusionSettings, Leg, choose, fuse, rows
from tasks.retrieval.scores import METRICS, means, of_rankings
from tests.support.indexed import FUSION

WORDS = Leg([9.0, 6.0, 3.0, 0.0], [4, 7, 2, -1])
NEAR = Leg([0.9, 0.8, 0.5, 0.4], [7, 1, 4, 0])
BOTH = {"lexical": WORDS, "dense": NEAR}


def weighted(lexical: float, depth: int = 10) -> Fusion:
    return Fusion(method="weights", depth=depth, lexical=lexical, c=None)


def test_weights_add_scores_between_the_best_and_the_worst_of_each_leg() -> None:
    found = {one.row: one for one in fuse(BOTH, weighted(0.25), 10)}
    assert found[4].parts == {"lexical": pytest.approx(0.25), "dense": pytest.approx(0.75 * 0.2)}
    assert found[7].parts == {"lexical": pytest.approx(0.125), "dense": pytest.approx(0.75)}
    assert found[1].parts == {"lexical": 0.0, "dense": pytest.approx(0.75 * 0.8)}
    assert all(one.score == pytest.approx(sum(one.parts.values())) for one in found.values())
    assert found[4].ranks == {"lexical": 1, "dense": 3}
    assert found[1].ranks == {"lexical": None, "dense": 2}
    assert sorted(found) == [0, 1, 2, 4, 7], "what no leg found is no result"


def test_reciprocal_ranks() -> None:
    found = fuse(BOTH, Fusion(method="rrf", depth=10, lexical=0.5, c=60), 2)
    assert [one.row for one in found] == [7, 4]
    assert found[0].score == pytest.approx(0.5 / 62 + 0.5 / 61)


@pytest.mark.parametrize(("weight", "leg"), [(1.0, WORDS), (0.0, NEAR)])
def test_weight_one_or_zero_is_one_leg_alone(weight: float, leg: Leg) -> None:
    found = rows(fuse(BOTH, weighted(weight), 10))
    alone = [row for row in leg.rows if row >= 0]
    assert found[: len(alone)] == alone


ROWS = st.lists(st.integers(0, 30), unique=True, max_size=12)


@given(ROWS, ROWS, st.data())
def test_one_leg_alone_keeps_its_order_whatever_the_scores(
    words: list[int], near: list[int], data: st.DataObject
) -> None:
    numbers = [
        sorted(data.draw(st.lists(st.floats(-9, 9), min_size=len(of), max_size=len(of))), reverse=True)
        for of in (words, near)
    ]
    both = {"lexical": Leg(numbers[0], words), "dense": Leg(numbers[1], near)}
    assert rows(fuse(both, weighted(1.0, 20), 99))[: len(words)] == words
    assert rows(fuse(both, weighted(0.0, 20), 99))[: len(near)] == near
    assert sorted(rows(fuse(both, weighted(0.5, 20), 99))) == sorted({*words, *near})


def test_depth_cuts_each_leg() -> None:
    assert sorted(rows(fuse(BOTH, weighted(0.5, 1), 10))) == [4, 7]


def test_a_leg_without_hits_leaves_the_other() -> None:
    empty = Leg([0.0, 0.0], [-1, -1])
    assert rows(fuse({"lexical": empty, "dense": NEAR}, weighted(0.5), 10)) == [7, 1, 4, 0]
    assert fuse({"lexical": empty, "dense": empty}, weighted(0.5), 10) == []


def test_equal_scores_are_ordered_by_rank_and_row() -> None:
    same = {"lexical": Leg([1.0, 1.0], [9, 3]), "dense": Leg([1.0, 1.0], [3, 9])}
    assert rows(fuse(same, weighted(0.5), 2)) == [3, 9]


def by_definition(legs: dict[str, Leg], lexical: float, c: int | None) -> list[int]:
    """Rows by the sum of what the legs add, then by the better rank in a leg that counts, then by the row."""
    worth: dict[int, float] = {}
    best: dict[int, float] = {}
    for name, weight in (("lexical", lexical), ("dense", 1 - lexical)):
        scores = legs[name].scores
        for rank, (row, score) in enumerate(zip(legs[name].rows, scores, strict=True), 1):
            spread = max(scores) - min(scores)
            value = 1 / (c + rank) if c else (score - min(scores)) / spread if spread else 1.0
            worth[row] = worth.get(row, 0.0) + weight * value
            best[row] = min(best.get(row, math.inf), rank if weight else math.inf)
    return sorted(worth, key=lambda row: (-worth[row], best[row], row))


@given(ROWS, ROWS, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([None, 60]), st.data())
def test_a_ranking_is_that_of_the_definition(
    words: list[int], near: list[int], lexical: float, c: int | None, data: st.DataObject
) -> None:
    numbers = [
        sorted(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=len(of), max_size=len(of))))[::-1]
        for of in (words, near)
    ]
    both = {"lexical": Leg(numbers[0], words), "dense": Leg(numbers[1], near)}
    fusion = Fusion(method="rrf" if c else "weights", depth=99, lexical=lexical, c=c)
    assert rows(fuse(both, fusion, 99)) == by_definition(both, lexical, c)


def test_what_is_tried_is_what_is_searched_by() -> None:
    legs = {"a": BOTH, "b": {"lexical": NEAR, "dense": WORDS}, "c": {"lexical": WORDS, "dense": Leg([0.0], [-1])}}
    gold = {"a": {1}, "b": {4, 0}, "c": {2}}
    _, tried = choose(settings(), legs, gold)
    assert len(tried) == 4
    for one in tried:
        fusion = Fusion(**{key: one[key] for key in Fusion.model_fields})
        ranked = {name: rows(fuse(of, fusion, 10)) for name, of in legs.items()}
        assert {metric: one[metric] for metric in METRICS} == means(of_rankings(ranked, gold))


def settings(**changed: Any) -> FusionSettings:
    return FusionSettings(**{**FUSION, **changed})


def test_the_choice_is_never_below_either_leg() -> None:
    """A lexical leg that is wrong pulls reciprocal ranks below a dense leg that is right."""
    right = Leg([0.9, 0.2, 0.1], [0, 1, 2])
    wrong = Leg([5.0, 4.0, 3.0], [1, 2, 0])
    legs = {str(at): {"lexical": wrong, "dense": right} for at in range(6)}
    gold = {name: {0} for name in legs}
    chosen, tried = choose(settings(), legs, gold)
    assert (chosen.method, chosen.lexical) == ("weights", 0.0)
    by_ranks = tried[-1]
    assert by_ranks["method"] == "rrf"
    assert by_ranks["ndcg@10"] < 1.0 == tried[0]["ndcg@10"]


def test_the_choice_takes_both_where_both_are_needed() -> None:
    legs = {
        "a": {"lexical": Leg([9.0, 1.0, 0.9], [0, 5, 6]), "dense": Leg([0.8, 0.79, 0.1], [5, 0, 6])},
        "b": {"lexical": Leg([2.0, 1.9, 0.1], [5, 0, 6]), "dense": Leg([0.9, 0.2, 0.1], [0, 5, 6])},
    }
    chosen, _ = choose(settings(rrf_c=None), legs, {"a": {0}, "b": {0}})
    assert chosen.lexical == 0.5
    fused = {name: rows(fuse(of, chosen, 10)) for name, of in legs.items()}
    assert means(of_rankings(fused, {"a": {0}, "b": {0}}))["recall@1"] == 1.0


@pytest.mark.parametrize("weights", [[0.0, 0.5], [0.5, 1.0], [0.0, 1.0, 1.5], []])
def test_weights_without_both_legs_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValidationError, match="0 and 1 among them"):
        settings(lexical_weights=weights)
