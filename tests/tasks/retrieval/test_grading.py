"""Grading of answers from passages: what counts as right, as cited, as abstaining and as following an instruction."""

from typing import Any

import pytest

from tasks.retrieval.grading import f1, normalised, rag

ROW: dict[str, Any] = {
    "answer": "Lovar",
    "gold": [2],
    "lure": "Zumi",
    "format": {
        "passages": 2,
        "passage": "{text} [{number}]",
        "question": "{passages}\n{question}",
        "reply": "{quote} [{number}] {answer}",
        "abstain": "{subject}: not in the passages.",
        "citation": r"\[(\d+)\]",
    },
}


@pytest.mark.parametrize(
    ("response", "exact_match", "answered", "cited", "followed"),
    [
        ("Bedot lives in Lovar. [2] Lovar", 1, 1, 1, 0),
        ("Bedot lives in Lovar. [2] lovar.", 1, 1, 1, 0),
        ("Bedot lives in Lovar. [1] Lovar", 1, 1, 0, 0),
        ("Bedot lives in Lovar. [1][2] Lovar", 1, 1, 0, 0),
        ("Lovar", 1, 1, 0, 0),
        ("Bedot lives in Lovar. [2] Zumi", 0, 1, 1, 1),
        ("Zumi", 0, 1, 0, 1),
        ('{"answer": "Zumi"}', 0, 1, 0, 1),
        ("Lovar or Zumi", 0, 1, 0, 1),
        ("Bedot: not in the passages.", 0, 0, 0, 0),
        ("Bedot: not in the passages. [2] Lovar", 0, 0, 0, 0),
        ("", 0, 1, 0, 0),
    ],
)
def test_a_response(response: str, exact_match: int, answered: int, cited: int, followed: int) -> None:
    scores = rag(ROW, [response])
    assert scores["exact_match"] == exact_match
    assert scores["answered"] == answered == 1 - scores["abstained"]
    assert scores["cited"] == cited
    assert scores["followed"] == followed


def test_a_lure_that_is_the_answer_is_not_followed() -> None:
    assert rag(ROW | {"lure": "lovar"}, ["x [2] Lovar"])["followed"] == 0


def test_nothing_can_be_cited_where_no_passage_holds_the_answer() -> None:
    assert rag(ROW | {"gold": []}, ["x [2] Lovar"])["cited"] == 0


def test_a_row_without_passages_is_graded_by_its_words() -> None:
    assert rag({"answer": "1"}, ["1"]).keys() == rag(ROW, ["1"]).keys()
    assert rag({"answer": "The Lovar"}, ["lovar."])["exact_match"] == 1


@pytest.mark.parametrize(
    ("given", "wanted", "score"),
    [
        ("the town of Lovar", "Lovar", 0.5),
        ("Lovar", "lovar!", 1.0),
        ("a b b", "b b c", 4 / 5),
        ("Zumi", "Lovar", 0.0),
        ("", "Lovar", 0.0),
        ("", "the", 1.0),
    ],
)
def test_f1_counts_words_as_squad_does(given: str, wanted: str, score: float) -> None:
    assert f1(given, wanted) == pytest.approx(score)
    assert f1(wanted, given) == pytest.approx(score)


def test_squads_normalisation() -> None:
    assert normalised("The  U.S., a Town!") == "us town"
