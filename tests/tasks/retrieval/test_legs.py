"""The legs of an index compared on the same questions, and rows held against what the index finds now."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.retrieval.chunks import Chunk
from tasks.retrieval.legs import Leg, check_shown, compare, found_by, latency, questions
from tasks.stage.errors import ArtifactError
from tests.support.grounded import FORM, TEXTS, row

CHUNKS = [Chunk(name, f"facts/{name}.txt", "facts", (), 0, len(text), text) for name, text in TEXTS.items()]


class Ranked:
    """An index whose rankings are given: leg to question to the ids found."""

    def __init__(
        self, rankings: Mapping[Leg, Mapping[str, Sequence[str]]], relevance: Mapping[str, float] | None = None
    ) -> None:
        self.chunks = CHUNKS
        self.relevance = relevance or {}
        self.seconds: dict[str, float] = {}
        self.asked: list[list[str]] = []
        self._rankings = rankings

    def search(self, queries: Sequence[str], k: int, by: Leg = "fused") -> list[list[Any]]:
        self.asked.append(list(queries))
        self.seconds = {"embed": 0.25, "lexical": 0.5, "dense": 0.0, "fuse": 0.0}
        chunks = {chunk.id: chunk for chunk in CHUNKS}
        return [
            [
                SimpleNamespace(chunk=chunks[name], relevance=self.relevance.get(name))
                for name in self._rankings[by][query][:k]
            ]
            for query in queries
        ]


def asked(query: str, chunk: str, **columns: str) -> dict[str, Any]:
    return row(**{"asked": query, "document": f"facts/{chunk}.txt", "quote": TEXTS[chunk], **columns})


QUESTIONS = [asked("a", "c1"), asked("b", "c2"), asked("c", "c3")]
RANKINGS: dict[Leg, dict[str, list[str]]] = {
    "lexical": {"a": ["c1", "c2"], "b": ["c1", "c2"], "c": ["c1"]},
    "dense": {"a": ["c1"], "b": ["c2"], "c": ["c3"]},
    "fused": {"a": ["c1"], "b": ["c2", "c1"], "c": ["c1", "c3"]},
}


def test_each_leg_has_its_scores_and_the_fusion_what_it_adds() -> None:
    found = compare(Ranked(RANKINGS), QUESTIONS, FORM, resamples=200, seed=0)
    assert (found["questions"], found["without_passage"]) == (3, 0)
    recall = {leg: scores["recall@1"]["value"] for leg, scores in found["legs"].items()}
    assert recall == {"lexical": pytest.approx(1 / 3, abs=1e-6), "dense": 1.0, "fused": pytest.approx(2 / 3, abs=1e-6)}
    assert found["legs"]["lexical"]["mrr@10"]["value"] == pytest.approx((1 + 1 / 2 + 0) / 3, abs=1e-6)
    assert found["fused_over"]["lexical"]["recall@1"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["fused_over"]["dense"]["recall@1"]["value"] == pytest.approx(-1 / 3, abs=1e-6)


def test_what_the_fusion_shows_is_laid_to_the_leg_that_found_it() -> None:
    wanted = {"a": {0}, "b": {1}, "c": {2}, "d": {0}}
    rankings: dict[Leg, dict[str, list[int]]] = {
        "lexical": {"a": [0], "b": [0], "c": [0], "d": [0]},
        "dense": {"a": [0], "b": [1], "c": [0], "d": [1]},
        "fused": {"a": [0], "b": [1], "c": [0, 1], "d": [0]},
    }
    assert found_by(rankings, wanted) == {
        "both": pytest.approx(1 / 3, abs=1e-6),
        "lexical": pytest.approx(1 / 3, abs=1e-6),
        "dense": pytest.approx(1 / 3, abs=1e-6),
        "neither": 0.0,
    }
    assert found_by({leg: {"a": [1]} for leg in rankings}, {"a": {0}}) == {}


def test_a_question_whose_sentence_no_chunk_holds_is_counted_and_not_scored() -> None:
    cut = asked("d", "c1", quote="Bedot lives in Lovar, or near it.")
    found = compare(Ranked(RANKINGS), [*QUESTIONS, cut], FORM, resamples=200, seed=0)
    assert (found["questions"], found["without_passage"]) == (3, 1)
    assert compare(Ranked(RANKINGS), [cut], FORM, resamples=200, seed=0) == {"questions": 0, "without_passage": 1}


def test_a_question_is_asked_once_and_one_without_an_answer_or_of_the_training_never() -> None:
    learnt = {**asked("b", "c2"), "condition": "contradicting"}
    rows = [asked("a", "c1"), {**asked("a", "c1"), "condition": "gold"}, row(asked="x", quote="", document=""), learnt]
    assert [found["asked"] for found in questions(rows)] == ["a"]


def test_rows_show_what_the_index_finds_in_any_order() -> None:
    index = Ranked({"fused": {"a": ["c1", "c2", "c3"]}, "lexical": {"a": ["c3", "c1"]}, "dense": {}})
    rows = [row(asked="a", passages=["c2", "c1"]), row("gold", asked="a", passages=["c3"])]
    check_shown(index, rows, "fused", FORM, Path("eval/facts.jsonl"))
    with pytest.raises(ArtifactError, match=r"facts.jsonl:1: shows the passages c2, c1, and .* by lexical c3, c1 for"):
        check_shown(index, rows, "lexical", FORM, Path("eval/facts.jsonl"))


def test_seconds_are_of_one_question_alone_and_not_of_the_first() -> None:
    index = Ranked(RANKINGS)
    seconds = latency(index, QUESTIONS)
    assert index.asked == [["a"], ["a"], ["b"], ["c"]]
    assert {part: seconds[part] for part in ("embed", "lexical", "dense", "fuse")} == {
        "embed": 0.25, "lexical": 0.5, "dense": 0.0, "fuse": 0.0,
    }  # fmt: skip
    assert 0 < seconds["search"] < 0.1
    assert latency(index, []) == {}


def test_a_screen_counts_what_it_keeps() -> None:
    form = FORM.model_copy(update={"least_relevance": 0.5})
    index = Ranked(RANKINGS, relevance={"c1": 0.9, "c2": 0.8, "c3": 0.2})
    found = compare(index, QUESTIONS, form, resamples=200, seed=0)
    assert found["screen"] == {
        "least": 0.5, "right": 3, "right_kept": pytest.approx(2 / 3, abs=1e-6), "others": 2, "others_kept": 1.0,
        "nothing_shown": 0.0,
    }  # fmt: skip
    assert "screen" not in compare(index, QUESTIONS, FORM, resamples=200, seed=0)


def test_rows_are_held_against_what_passes_the_screen() -> None:
    form = FORM.model_copy(update={"least_relevance": 0.5})
    index = Ranked(RANKINGS, relevance={"c1": 0.9, "c2": 0.2})
    rows = [row(asked="b", document="facts/c2.txt", quote=TEXTS["c2"], passages=["c1"], gold=[])]
    check_shown(index, rows, "fused", form, Path("eval/facts.jsonl"))
    with pytest.raises(ArtifactError, match=r"eval/facts.jsonl:1: shows the passages c1, and the index finds"):
        check_shown(index, rows, "fused", FORM, Path("eval/facts.jsonl"))
