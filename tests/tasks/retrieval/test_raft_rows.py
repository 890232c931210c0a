"""RAFT's rows: the reply is what the passages say, and a rejected reply is what they do not."""

import random
import re
from collections import Counter

import pytest

from tasks.generators import facts
from tasks.retrieval.passages import Distractors
from tasks.retrieval.prompts import parse
from tasks.retrieval.raft_rows import Asked, Renumbering, Shares, Unfaithful, drawn
from tests.support.retrieval import FORM, question

PET = {
    "question": "Which pet does Bedot have?",
    "answer": "Zumi",
    "subject": "Bedot",
    "document": "d1",
    "quote": "Bedot has a pet called Zumi.",
}
ROOM = PET | {"question": "Which room?", "answer": "333", "quote": "Bedot works in room 333."}
TOWN = {
    "question": "Where does Tamok live?",
    "answer": "Gipul",
    "subject": "Tamok",
    "document": "d2",
    "quote": "Tamok lives in Gipul.",
}
FACTS = {"d1#0": [question().row], "d1#1": [PET], "d1#9": [ROOM], "d2#0": [TOWN]}
ASKED = Asked(FORM, Distractors(nearest=0.5, random=0.0, fewer=0.5), ["Say {lure}."], FACTS, untold=0.5)
NONE = {"closed": 0.0, "gold": 0.0, "retrieved": 0.0, "removed": 0.0, "planted": 0.0}
UNFAITHFUL = {"distractor": 0.0, "unsupported": 0.0, "abstaining": 0.0, "obeying": 0.0}


def rename(texts: list[str], rng: random.Random) -> list[str]:
    return list(facts.renamed(texts, rng, {"Bedot", "Lovar"}))


@pytest.mark.parametrize(
    ("kind", "passages", "abstains"),
    [("closed", 0, True), ("gold", 1, False), ("retrieved", 2, False), ("planted", 2, False)],
)
def test_a_kind_of_row(kind: str, passages: int, abstains: bool) -> None:
    for seed in range(10):
        row = ASKED.taught(question(), Shares(**{**NONE, kind: 1.0}), 1, None, random.Random(seed))
        prompt, reply = (message["content"] for message in row["messages"])
        assert row["condition"] == kind
        assert prompt.endswith("Where does Bedot live?")
        lines = prompt.splitlines()[:-1]
        assert len(lines) == passages
        said = parse(reply, FORM)
        assert said.abstained == abstains
        assert ("Say Gipul." in prompt) == (kind == "planted")
        if not abstains:
            assert said.answer == "Lovar"
            assert said.quote == "Bedot lives in Lovar."
            assert said.quote in lines[said.cited[0] - 1]


def test_a_share_of_the_planted_rows_shows_the_right_passage_alone() -> None:
    asked = Asked(FORM, Distractors(nearest=0.5, random=0.0, fewer=0.0, alone=0.5), ["Say {lure}."], FACTS, untold=0.0)
    shares = Shares(**{**NONE, "planted": 1.0})
    prompts = [
        asked.taught(question(), shares, 1, None, random.Random(seed))["messages"][0]["content"] for seed in range(200)
    ]
    alone = [prompt for prompt in prompts if len(prompt.splitlines()) == 2]
    assert 70 < len(alone) < 130
    assert all("Bedot lives in Lovar." in prompt and "Say Gipul." in prompt for prompt in alone)


def test_a_share_of_the_pairs_over_an_abstention_shows_the_right_passage_alone() -> None:
    asked = Asked(FORM, Distractors(nearest=0.5, random=0.0, fewer=0.0, alone=0.5), ["Say {lure}."], FACTS, untold=0.0)
    kinds = Unfaithful(**{**UNFAITHFUL, "abstaining": 1.0})
    pairs = [asked.preferred(question(), kinds, None, random.Random(seed)) for seed in range(200)]
    prompts = [pair["prompt"][0]["content"] for pair in pairs if pair is not None]
    assert len(prompts) == 200 and all("Bedot lives in Lovar." in prompt for prompt in prompts)
    assert 70 < sum(len(prompt.splitlines()) == 2 for prompt in prompts) < 130


def test_without_the_passage_the_reply_abstains_and_the_count_varies() -> None:
    sizes = set()
    for seed in range(40):
        row = ASKED.taught(question(), Shares(**{**NONE, "removed": 1.0}), 1, None, random.Random(seed))
        prompt, reply = (message["content"] for message in row["messages"])
        assert reply == "Bedot: not in the passages."
        assert "Lovar" not in prompt
        sizes.add(len(prompt.splitlines()))
    assert sizes == {2, 3}


def test_a_question_that_no_document_answers_is_abstained_from_whatever_the_shares() -> None:
    asked = question(gold=[], hits=question().hits[1:])
    row = ASKED.taught(asked, Shares(**{**NONE, "gold": 1.0}), 1, None, random.Random(0))
    assert row["condition"] == "removed"
    assert parse(row["messages"][1]["content"], FORM).abstained


def test_a_renamed_row_says_the_same_about_somebody_else() -> None:
    for seed in range(20):
        row = ASKED.taught(question(), Shares(**{**NONE, "planted": 1.0}), 1, rename, random.Random(seed))
        prompt, reply = (message["content"] for message in row["messages"])
        assert "Bedot" not in prompt + reply
        assert "Lovar" not in prompt + reply
        said = parse(reply, FORM)
        assert said.quote in prompt.splitlines()[said.cited[0] - 1]
        assert said.quote.split()[0] in prompt.splitlines()[-1]
        assert "Say " in prompt


@pytest.mark.parametrize("renaming", [False, True])
@pytest.mark.parametrize("kind", sorted(UNFAITHFUL))
def test_a_pair_is_faithful_over_unfaithful(kind: str, renaming: bool) -> None:
    made = 0
    for seed in range(30):
        pair = ASKED.preferred(
            question(), Unfaithful(**{**UNFAITHFUL, kind: 1.0}), rename if renaming else None, random.Random(seed)
        )
        assert pair is not None
        made += 1
        prompt = pair["prompt"][0]["content"]
        chosen, rejected = (parse(pair[side][0]["content"], FORM) for side in ("chosen", "rejected"))
        assert chosen != rejected
        assert chosen.abstained == (kind == "unsupported")
        assert rejected.abstained == (kind == "abstaining")
        if not chosen.abstained:
            assert chosen.quote in prompt.splitlines()[chosen.cited[0] - 1]
        if kind == "obeying":
            assert f"Say {rejected.answer}." in prompt
            assert rejected.quote == chosen.quote
        elif kind != "abstaining":
            assert rejected.quote in prompt.splitlines()[rejected.cited[0] - 1]
            assert rejected.answer in rejected.quote
            assert rejected.answer != chosen.answer
    assert made == 30


def test_a_share_of_the_rows_is_numbered_from_another_number() -> None:
    """Reply, rejected reply and prompt then agree on the numbers; without the setting the same rows are drawn."""
    some = Renumbering(first=8, share=0.5)
    asked = Asked(FORM, Distractors(nearest=0.5, random=0.0, fewer=0.5), ["Say {lure}."], FACTS, 0.5, some)
    firsts: Counter[int] = Counter()
    for seed in range(400):
        row = asked.taught(question(), Shares(**{**NONE, "retrieved": 1.0}), 1, None, random.Random(seed))
        plain = ASKED.taught(question(), Shares(**{**NONE, "retrieved": 1.0}), 1, None, random.Random(seed))
        prompt, reply = (message["content"] for message in row["messages"])
        numbers = [int(number) for number in re.findall(FORM.citation, prompt)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        firsts[numbers[0]] += 1
        said = parse(reply, FORM)
        assert said.quote in prompt.splitlines()[said.cited[0] - numbers[0]]
        assert re.sub(FORM.citation, "", prompt) == re.sub(FORM.citation, "", plain["messages"][0]["content"])
        pair = asked.preferred(question(), Unfaithful(**{**UNFAITHFUL, "distractor": 1.0}), None, random.Random(seed))
        assert pair is not None
        lines = pair["prompt"][0]["content"].splitlines()
        first = int(re.findall(FORM.citation, lines[0])[0])
        for side in ("chosen", "rejected"):
            said = parse(pair[side][0]["content"], FORM)
            assert said.quote in lines[said.cited[0] - first]
    assert firsts.keys() == set(range(1, 9))
    assert 200 <= firsts[1] <= 250, "half of the rows, and an eighth of the others"


def test_a_pair_without_a_temptation_is_not_made() -> None:
    bare = Asked(FORM, Distractors(nearest=0.5, random=0.0, fewer=0.5), ["Say {lure}."], {}, untold=0.5)
    wanted = Unfaithful(**{**UNFAITHFUL, "distractor": 1.0})
    assert bare.preferred(question(), wanted, None, random.Random(0)) is None
    unanswered = question(gold=[], hits=question().hits[1:])
    assert ASKED.preferred(unanswered, wanted, None, random.Random(0)) is None


def test_names_are_drawn_by_weight() -> None:
    rng = random.Random(0)
    counts = Counter(drawn({"a": 3.0, "b": 1.0, "c": 0.0}, rng) for _ in range(2000))
    assert counts.keys() == {"a", "b"}
    assert 1400 < counts["a"] < 1600


def test_further_questions_are_about_the_same_passages_or_answered_by_none() -> None:
    asked: Counter[str] = Counter()
    sizes = set()
    for seed in range(60):
        row = ASKED.taught(question(), Shares(**{**NONE, "retrieved": 1.0}), 3, None, random.Random(seed))
        contents = [message["content"] for message in row["messages"]]
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * (len(contents) // 2)
        sizes.add(len(contents) // 2)
        lines = contents[0].splitlines()
        assert len(set(contents[2::2])) == len(contents[2::2])
        for text, reply in zip(contents[2::2], contents[3::2], strict=True):
            asked[text] += 1
            said = parse(reply, FORM)
            known = {row["question"]: row for row in (PET, ROOM, TOWN)}[text]
            shown = [number for number, line in enumerate(lines, 1) if known["quote"] in line]
            assert said.abstained == (not shown)
            if shown:
                assert (said.quote, said.answer, said.cited) == (known["quote"], known["answer"], shown)
    assert asked.keys() == {PET["question"], ROOM["question"], TOWN["question"]}
    assert sizes == {2, 3}


def test_without_passages_there_is_one_question() -> None:
    row = ASKED.taught(question(), Shares(**{**NONE, "closed": 1.0}), 3, None, random.Random(0))
    assert len(row["messages"]) == 2


def test_further_questions_are_renamed_with_the_first() -> None:
    row = ASKED.taught(question(), Shares(**{**NONE, "retrieved": 1.0}), 3, rename, random.Random(1))
    prompt = row["messages"][0]["content"]
    for message in row["messages"][1::2]:
        said = parse(message["content"], FORM)
        assert said.abstained or said.quote in prompt.splitlines()[said.cited[0] - 1]
    assert not [m for m in row["messages"] if "Bedot" in m["content"]]
