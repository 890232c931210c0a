"""What an index finds: gold chunks, hits without the documents of a test, lures, and counts."""

from typing import Any

from tasks.retrieval.finder import Finder
from tests.support.retrieval import index_of

TEXTS = {
    "d1": ["Bedot lives in Lovar.", "Bedot has a pet called Zumi.", "Bedot, who lives: Bedot lives in Lovar."],
    "d2": ["Tamok lives in Gipul.", "Tamok has a pet called Fulo."],
    "d3": ["Rihan was born in 1912.", "Rihan lives in Bomeg."],
}


def row(name: str, document: str, quote: str, answer: str, kind: str = "home") -> dict[str, Any]:
    return {"question": f"Where lives {name}?", "answer": answer, "document": document, "quote": quote, "kind": kind}


ROWS = [
    row("Bedot", "d1", "Bedot lives in Lovar.", "Lovar"),
    row("Tamok", "d2", "Tamok lives in Gipul.", "Gipul"),
    row("Rihan", "d3", "Rihan lives in Nowhere.", "Nowhere"),
    row("Nobody", "", "", ""),
]


def test_gold_is_every_chunk_of_the_document_that_holds_the_sentence() -> None:
    questions, counts = Finder(index_of(TEXTS), 3, "dense", 0).questions(ROWS, set())
    assert [[p.id for p in q.gold] for q in questions] == [["d1#0", "d1#2"], ["d2#0"], []]
    assert all(p.holds for q in questions for p in q.gold)
    assert counts == {"read": 4, "in no chunk": 1, "best hit is right": 1.0}


def test_the_index_is_asked_for_one_hit_more_by_the_part_that_is_named() -> None:
    index = index_of(TEXTS)
    questions, _ = Finder(index, 3, "lexical", 0).questions(ROWS, set())
    assert index.asked == [(4, "lexical")]
    assert [p.holds for p in questions[0].hits] == [p.id in ("d1#0", "d1#2") for p in questions[0].hits]


def test_a_hidden_document_is_in_no_prompt() -> None:
    shown = set()
    for seed in range(20):
        questions, _ = Finder(index_of(TEXTS), 7, "fused", seed).questions(ROWS[:2], {"d3"})
        shown |= {p.id for q in questions for p in (*q.hits, *q.others)}
    assert shown == {"d1#0", "d1#1", "d1#2", "d2#0", "d2#1"}


def test_others_are_neither_found_nor_gold() -> None:
    drawn = set()
    for seed in range(20):
        questions, _ = Finder(index_of(TEXTS), 1, "fused", seed).questions(ROWS[:1], set())
        assert not {p.id for p in questions[0].others} & {p.id for p in (*questions[0].hits, *questions[0].gold)}
        drawn |= {p.id for p in questions[0].others}
    assert len(drawn) >= 3


def test_a_lure_answers_another_question_of_the_kind() -> None:
    rows = [*ROWS[:2], row("Rihan", "d3", "Rihan was born in 1912.", "1912", "birth")]
    questions, _ = Finder(index_of(TEXTS), 2, "fused", 0).questions(rows, set())
    assert [q.lure for q in questions] == ["Gipul", "Lovar", "1912"]


def test_the_facts_of_a_chunk_are_those_that_questions_ask_for() -> None:
    finder = Finder(index_of(TEXTS), 2, "fused", 0)
    questions, _ = finder.questions([*ROWS, ROWS[0]], set())
    assert finder.facts(questions) == {"d1#0": [ROWS[0], ROWS[0]], "d1#2": [ROWS[0], ROWS[0]], "d2#0": [ROWS[1]]}
