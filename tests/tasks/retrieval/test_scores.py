"""Scores of rankings: against values worked out by hand, and refusals."""

import math

import pytest

from tasks.retrieval import scores


def test_one_gold_chunk_at_the_third_place() -> None:
    assert scores.of_ranking([7, 4, 9, 2], {9}) == {
        "ndcg@10": pytest.approx(1 / math.log2(4)),
        "mrr@10": pytest.approx(1 / 3),
        "recall@1": 0.0,
        "recall@3": 1.0,
        "recall@5": 1.0,
        "recall@10": 1.0,
    }


def test_the_eleventh_place_does_not_count() -> None:
    assert set(scores.of_ranking([*range(10), 99], {99}).values()) == {0.0}


def test_nothing_found_is_scored_zero() -> None:
    assert set(scores.of_ranking([-1, -1], {0}).values()) == {0.0}
    assert set(scores.of_ranking([], {0}).values()) == {0.0}


def test_two_gold_chunks_share_the_ideal_gain() -> None:
    ideal = 1 + 1 / math.log2(3)
    assert scores.of_ranking([1, 5, 2], {1, 2})["ndcg@10"] == pytest.approx((1 + 1 / math.log2(4)) / ideal)
    assert scores.of_ranking([2, 1], {1, 2})["ndcg@10"] == pytest.approx(1.0)
    assert scores.of_ranking([1, 5, 6], {1, 2})["recall@1"] == 1.0


def test_more_gold_chunks_than_places_can_still_be_perfect() -> None:
    assert scores.of_ranking(list(range(10)), set(range(12)))["ndcg@10"] == pytest.approx(1.0)


def test_a_question_without_a_gold_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="without a gold chunk"):
        scores.of_ranking([1], set())


def test_intervals_hold_their_means_and_differences_are_paired() -> None:
    gold = {str(at): {0} for at in range(40)}
    good = scores.of_rankings({name: [0] if int(name) % 4 else [1, 0] for name in gold}, gold)
    bad = scores.of_rankings({name: [1, 0] for name in gold}, gold)
    found = scores.intervals(good, resamples=200, seed=1)["recall@1"]
    assert found["low"] < found["value"] == 0.75 < found["high"]
    assert scores.means(good)["recall@1"] == 0.75
    difference = scores.differences(good, bad, resamples=200, seed=1)
    assert difference["recall@1"]["value"] == 0.75
    assert difference["recall@1"]["verdict"] == "better"
    assert difference["recall@3"] == {"value": 0.0, "low": 0.0, "high": 0.0, "verdict": "no difference"}
