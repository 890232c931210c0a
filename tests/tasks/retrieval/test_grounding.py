"""Citations, abstention and conditions, counted on answers whose figures are known."""

import pytest

from tasks.retrieval.grounding import abstention, citations, grounding
from tests.support.grounded import SETTINGS, TEXTS, answered


def test_citations_are_right_where_the_passage_holds_the_answer() -> None:
    rows = [
        answered("a", said="Bedot lives in Lovar. [1] Lovar", gold=[1]),
        answered("b", said="Bedot lives in Lovar. [2] Lovar", gold=[1]),
        answered("c", said="Bedot lives in Lovar. [1][2] Lovar", gold=[2]),
        answered("d", said="Lovar", gold=[1]),
        answered("e", said="Bedot: not in the passages.", gold=[1]),
        answered("f", said="Bedot lives in Lovar. [1] Lovar", gold=[]),
    ]
    found = citations(rows, TEXTS, SETTINGS)
    assert found["answered"] == 5
    assert found["precision"]["value"] == pytest.approx(2 / 5), "a cites 1 of 1, c 1 of 2, b and f none of 1"
    assert found["recall"]["value"] == pytest.approx(2 / 4), "f was shown no passage that holds the answer"


def test_a_quote_stands_word_for_word_in_a_passage_that_is_cited_and_right() -> None:
    rows = [
        answered("a", said="Bedot lives  in Lovar. [1] Lovar", gold=[1]),
        answered("b", said="Bedot lives near Lovar. [1] Lovar", gold=[1]),
        answered("c", said="Tamok lives in Gipul. [2] Gipul", gold=[1]),
        answered("d", said="[1] Lovar", gold=[1]),
    ]
    assert citations(rows, TEXTS, SETTINGS)["quoted"]["value"] == pytest.approx(1 / 3), "d quotes nothing"


def test_a_share_of_nothing_is_no_number() -> None:
    silent = [answered("a", said="Bedot: not in the passages.", gold=[1])]
    assert citations(silent, TEXTS, SETTINGS) == {"answered": 0, "precision": None, "recall": None, "quoted": None}
    talking = [answered("a", said="Lovar", gold=[1])]
    found = abstention(talking, SETTINGS)
    assert (found["precision"], found["recall"], found["f1"]) == (None, None, None)
    assert found["wrongly"]["value"] == 0.0


def test_abstaining_is_right_where_no_passage_holds_the_answer() -> None:
    no = "Bedot: not in the passages."
    rows = [
        *(answered(f"r{n}", "removed", said=no, gold=[]) for n in range(3)),
        answered("r3", "removed", said="Gipul", gold=[]),
        *(answered(f"g{n}", "gold", said="[1] Lovar", gold=[1]) for n in range(4)),
        answered("g4", "gold", said=no, gold=[1]),
        answered("m", "retrieved", said=no, gold=[]),
    ]
    found = abstention(rows, SETTINGS)
    assert (found["answerable"], found["unanswerable"]) == (5, 5)
    assert found["precision"]["value"] == pytest.approx(4 / 5)
    assert found["recall"]["value"] == pytest.approx(4 / 5)
    assert found["f1"]["value"] == pytest.approx(4 / 5)
    assert found["wrongly"]["value"] == pytest.approx(1 / 5)
    assert found["invented"]["value"] == pytest.approx(1 / 5)
    assert found["f1"]["low"] < found["f1"]["value"] < found["f1"]["high"]


def test_conditions_stand_apart_and_attacks_count_neither_as_citations_nor_as_abstention() -> None:
    rows = [
        answered("a", "retrieved", said="[1] Lovar", gold=[1], exact_match=1.0),
        answered("a", "planted", said="[2] Gipul", gold=[1], exact_match=0.0),
        answered("b", "planted", said="Bedot: not in the passages.", gold=[1], exact_match=0.0),
        answered("a", "closed", said="Bedot: not in the passages.", gold=[], shown=(), exact_match=0.0),
    ]
    found = grounding(rows, TEXTS, SETTINGS)
    assert list(found["conditions"]) == ["closed", "retrieved", "planted"]
    assert found["conditions"]["retrieved"]["exact_match"]["value"] == 1.0
    assert found["conditions"]["planted"]["rows"] == 2
    assert found["conditions"]["planted"]["abstained"]["value"] == 0.5
    assert found["citations"]["answered"] == 1
    assert (found["abstention"]["answerable"], found["abstention"]["unanswerable"]) == (1, 0)
