"""The probability that a passage answers: fitted on both legs' raw scores, and what a screen keeps by it."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest

from tasks.retrieval.fusion import Fusion, Leg
from tasks.retrieval.relevance import Relevance, auc, fit, raw, relevant, screened

FUSION = Fusion(method="weights", depth=5, lexical=0.5, c=None)


def legs(dense: list[float], lexical: list[float]) -> dict[str, Leg]:
    """Both legs with the rows 0, 1, … by descending score; equal lengths."""

    def leg(scores: list[float]) -> Leg:
        order = sorted(range(len(scores)), key=lambda row: -scores[row])
        return Leg([scores[row] for row in order], order)

    return {"dense": leg(dense), "lexical": leg(lexical)}


def drawn(count: int, seed: int) -> tuple[dict[str, dict[str, Leg]], dict[str, set[int]]]:
    """Questions of which each row answers with the odds exp(-6 + 8 cosine + BM25)."""
    rng = random.Random(seed)
    questions, gold = {}, {}
    for number in range(count):
        cosines, words = [rng.random() for _ in range(5)], [4 * rng.random() for _ in range(5)]
        odds = [-6 + 8 * c + w for c, w in zip(cosines, words, strict=True)]
        questions[str(number)] = legs(cosines, words)
        gold[str(number)] = {row for row in range(5) if rng.random() < 1 / (1 + math.exp(-odds[row]))}
    return questions, gold


def test_the_weights_that_made_the_data_are_found() -> None:
    found = fit(*drawn(2000, seed=1), FUSION)
    assert found is not None
    assert (found.intercept, found.cosine, found.bm25) == pytest.approx((-6, 8, 1), rel=0.1)
    assert found.passages == 10_000
    assert 0.85 < found.auc < 0.95


def test_probabilities_are_the_shares_on_questions_that_were_not_fitted_on() -> None:
    found, (questions, gold) = fit(*drawn(2000, seed=1), FUSION), drawn(1000, seed=2)
    assert found is not None
    said = np.array([found.of(*raw(of, row)) for of in questions.values() for row in range(5)])
    holds = np.array([row in gold[name] for name in questions for row in range(5)])
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        among = (said >= low) & (said < low + 0.2)
        assert holds[among].mean() == pytest.approx(said[among].mean(), abs=0.05)


def test_weights_stay_finite_where_right_hits_and_others_fall_apart() -> None:
    questions = {str(n): legs([0.9, 0.3, 0.2], [3.0, 1.0, 0.5]) for n in range(20)}
    found = fit(questions, {name: {0} for name in questions}, FUSION)
    assert found is not None
    assert found.auc == 1.0
    assert 0.8 < found.of(0.9, 3.0) < 1 and found.of(0.3, 1.0) < 0.2


@pytest.mark.parametrize("gold", [set(), {0, 1, 2}])
def test_nothing_is_fitted_where_there_is_nothing_to_tell_apart(gold: set[int]) -> None:
    assert fit({"a": legs([0.9, 0.3, 0.2], [3.0, 1.0, 0.5])}, {"a": gold}, FUSION) is None


def test_a_score_that_a_leg_did_not_give_is_the_lowest_that_it_gave() -> None:
    of = {"dense": Leg([0.9, 0.4], [3, 1]), "lexical": Leg([2.0, 0.0], [1, -1])}
    assert raw(of, 3) == (0.9, 0.0), "the leg has found all that share a word"
    assert raw(of, 1) == (0.4, 2.0)
    assert raw({**of, "lexical": Leg([0.0], [-1])}, 7) == (0.4, 0.0)
    assert raw({**of, "lexical": Leg([2.0, 1.5], [1, 2])}, 3) == (0.9, 1.5)


def test_the_area_counts_ties_as_half() -> None:
    assert auc(np.array([1.0, 0.5, 0.5, 0.0]), np.array([True, True, False, False])) == pytest.approx(3.5 / 4)


def test_odds_beyond_what_a_float_holds_are_a_probability() -> None:
    steep = Relevance(intercept=0, cosine=1e6, bm25=0, passages=1, right=1, auc=1.0)
    assert (steep.of(1.0, 0.0), steep.of(-1.0, 0.0)) == (1.0, 0.0)


def test_a_screen_keeps_the_order_and_what_nobody_judged() -> None:
    hits = [
        SimpleNamespace(chunk=SimpleNamespace(id=str(n)), relevance=value) for n, value in enumerate((0.7, 0.4, None))
    ]
    assert relevant(hits, None) == hits
    assert [hit.chunk.id for hit in relevant(hits, 0.5)] == ["0", "2"]
    assert screened([hits, hits[1:2]], [{"1"}, {"1"}], 0.5) == {
        "least": 0.5, "right": 2, "right_kept": 0.0, "others": 2, "others_kept": 1.0, "nothing_shown": 0.5,
    }  # fmt: skip
