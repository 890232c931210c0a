"""Rows to learn from: the negatives are hard, and never an answer."""

from typing import Any

import pytest

from tasks.retrieval.lexical import Lexical, build
from tasks.retrieval.pairs import Negatives, cut, documents, judged, pairs, reworded
from tasks.retrieval.questions import Question
from tests.support.indexed import LEXICAL

TEXTS = [
    "Ada lives in Olvar.",
    "Ada lives in Olvar.",
    "Ada was born in 1923.",
    "Bex lives in Tidun.",
    "Cheese is yellow.",
]
ASKED = [Question("q", "Where does Ada live, Ada who lives?", (0,))]


@pytest.fixture
def lexical(tmp_path: Any) -> Lexical:
    build(TEXTS, tmp_path / "lexical", LEXICAL)
    return Lexical.open(tmp_path / "lexical")


def test_negatives_share_words_and_are_no_copy_of_the_answer(lexical: Lexical) -> None:
    rows, counts = pairs(ASKED, TEXTS, lexical, Negatives(count=2, skip=0, among=2), seed=0)
    assert rows[0]["anchor"] == ASKED[0].text
    assert rows[0]["positive"] == "Ada lives in Olvar."
    assert {rows[0]["negative_1"], rows[0]["negative_2"]} == {"Ada was born in 1923.", "Bex lives in Tidun."}
    assert counts == {"pairs": 1, "left out": 0, "negatives found": 2, "negatives drawn at random": 0}


def test_the_best_hits_may_be_skipped(lexical: Lexical) -> None:
    rows, _ = pairs(ASKED, TEXTS, lexical, Negatives(count=1, skip=1, among=1), seed=0)
    first, _ = pairs(ASKED, TEXTS, lexical, Negatives(count=1, skip=0, among=1), seed=0)
    assert {rows[0]["negative_1"], first[0]["negative_1"]} == {"Ada was born in 1923.", "Bex lives in Tidun."}


def test_where_the_index_finds_too_few_others_are_drawn(lexical: Lexical) -> None:
    rows, counts = pairs(ASKED, TEXTS, lexical, Negatives(count=3, skip=0, among=9), seed=0)
    assert sorted(documents(rows[0])[1:]) == ["Ada was born in 1923.", "Bex lives in Tidun.", "Cheese is yellow."]
    assert counts["negatives drawn at random"] == 1


def test_a_question_with_too_few_other_texts_is_counted_out(lexical: Lexical) -> None:
    rows, counts = pairs(ASKED, TEXTS, lexical, Negatives(count=4, skip=0, among=9), seed=0)
    assert (rows, counts["pairs"], counts["left out"]) == ([], 0, 1)


def test_no_negatives_at_all(lexical: Lexical) -> None:
    rows, _ = pairs(ASKED, TEXTS, lexical, Negatives(count=0, skip=0, among=1), seed=0)
    assert set(rows[0]) == {"anchor", "positive"}


def test_a_teacher_scores_every_document_of_a_row(lexical: Lexical) -> None:
    rows, _ = pairs(ASKED, TEXTS, lexical, Negatives(count=2, skip=0, among=2), seed=0)
    told = judged(rows, lambda asked: [len(text) for _, text in asked])
    assert told[0]["label"] == [len(text) for text in documents(rows[0])]
    assert documents(told[0]) == documents(rows[0])


def test_rows_with_a_text_that_is_not_read_to_its_end_are_counted() -> None:
    class Model:
        max_seq_length = 4

        @staticmethod
        def tokenizer(texts: list[str]) -> dict[str, list[list[int]]]:
            return {"input_ids": [[0] * len(text.split()) for text in texts]}

    rows = [{"anchor": "a b", "positive": "a b c d", "negative_1": text} for text in ("a", "a b c d e")]
    assert cut(rows, Model()) == 1


def test_words_are_left_out_of_questions_and_one_stays(lexical: Lexical) -> None:
    rows = [{"anchor": "Where does Ada live?", "positive": "Ada lives in Olvar."}] * 200
    made = reworded(rows, 0.5, seed=0)
    words = [row["anchor"].split() for row in made]
    assert 350 < sum(map(len, words)) < 500
    assert min(map(len, words)) == 1
    assert len({tuple(kept) for kept in words}) > 10
    assert {row["positive"] for row in made} == {"Ada lives in Olvar."}
    assert reworded(rows, 0.0, seed=0) == rows
