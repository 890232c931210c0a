"""Refinement against best-of-n: votes, the equal number of tokens, and what is counted."""

from typing import Any

import pytest

from tasks.sampling.sample import Answer
from tasks.self_training.best_of_n import Comparison, compared, draw_drafts, samples_within, vote
from tasks.self_training.revision import Attempt, Turns, answer_key, revised

SETTINGS = Comparison(prompts=10, temperature=0.7, top_p=1.0, resamples=400, confidence=0.95, examples=1)
TURNS = Turns(check="Check it.", revise="Revise it.", fault="^Wrong")


def answers(*texts: str, tokens: int = 4) -> list[Answer]:
    return [Answer(text, tokens) for text in texts]


def attempt(draft: Answer, critique: Answer, revision: Answer | None) -> Attempt:
    return Attempt([{"role": "user", "content": "Q?"}], draft, critique, revision)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("58 + 67: 8+7=15 5+6+1=12 so 125.", "125"),
        ("The answer is 1,250.", "1.25E+3"),
        ("so 1250", "1.25E+3"),
        ("Half of 250. #### 125", "125"),
        ("1996 / 4 = 499. The answer is Yes", "yes"),
        ("3. law 2. may 1. free. The answer is law, may, free", "law may free"),
        ("Law, may, FREE!", "law may free"),
        ("12 or 13", "12 or 13"),
        ("", None),
        (" \n", None),
    ],
)
def test_a_text_votes_for_what_it_commits_to(text: str, key: str | None) -> None:
    assert answer_key(text) == key


def test_the_majority_wins_and_the_first_of_equals() -> None:
    assert vote(["so 3", "so 4", "= 4"]) == 1
    assert vote(["so 3", "so 4"]) == 0
    assert vote(["so 5", "so 3", "so 4", "4"]) == 2
    assert vote(["", "so 4", ""]) == 1, "who says nothing does not vote"
    assert vote(["", ""]) == 0


def test_tokens_buy_a_fraction_of_a_draft() -> None:
    assert samples_within([10, 20, 30], 20) == (2, 0.0)
    assert samples_within([10, 20, 30], 24) == pytest.approx((2, 0.4))
    assert samples_within([10, 20, 30], 30) == (3, 0.0)
    assert samples_within([10, 26], 14) == pytest.approx((1, 0.25))


def test_drafts_are_drawn_until_they_cost_as_much() -> None:
    first = answers("a", "b", tokens=5)
    drawn: list[int] = []

    def draw(number: int) -> list[Answer]:
        drawn.append(number)
        return answers("c", "d", tokens=3)

    assert len(draw_drafts(first, draw, 10)) == 1
    assert len(draw_drafts(first, draw, 22)) == 3
    assert drawn == [1, 2]


def test_the_critique_decides_whether_a_draft_is_revised() -> None:
    asked: list[Any] = []

    def ask(conversations: Any) -> list[Answer]:
        asked.append(conversations)
        replies = {
            "Check it.": {"so 4": "Right.", "so 5": "Wrong: it is 4."},
            "Revise it.": {"Wrong: it is 4.": "so 4!"},
        }
        return answers(*(replies[c[-1]["content"]][c[-2]["content"]] for c in conversations))

    prompts = [[{"role": "user", "content": text}] for text in ("2 + 2", "3 + 1")]
    stood, mended = revised(ask, prompts, answers("so 4", "so 5", tokens=7), TURNS)
    assert (stood.revision, stood.final, stood.tokens) == (None, "so 4", 11)
    assert (mended.final, mended.tokens) == ("so 4!", 15)
    assert [len(conversations) for conversations in asked] == [2, 1]
    assert [turn["content"] for turn in asked[1][0]] == ["3 + 1", "so 5", "Check it.", "Wrong: it is 4.", "Revise it."]


@pytest.mark.parametrize(
    ("critique", "found"),
    [("I get 125.", False), ("so 124", True), ("", False), ("No idea.", True)],
)
def test_working_it_out_anew_finds_fault_with_another_answer(critique: str, found: bool) -> None:
    turns = TURNS.model_copy(update={"fault": None})
    assert turns.finds_fault(critique, "58 + 67: 8+7=15 5+6+1=12 so 125.") == found


def comparison() -> dict[str, Any]:
    """Four questions whose answer is 1; 4 tokens a draft, 2 a critique, 6 a revision: 36 tokens."""
    right, wrong = Answer("so 1", 4), Answer("so 2", 4)
    short, long = Answer("ok", 2), 6
    attempts = [
        attempt(right, short, None),
        attempt(wrong, short, Answer("so 1", long)),
        attempt(right, short, Answer("so 2", long)),
        attempt(wrong, short, None),
    ]
    drafts = [
        [right, wrong, right, wrong],
        answers("so 1", "so 1", "so 2", "so 2"),
        answers("so 2", "so 1", "so 2", "so 3"),
    ]
    return compared(attempts, drafts, lambda texts: [text == "so 1" for text in texts], SETTINGS, 0)


def test_both_sides_spend_the_same_tokens() -> None:
    found = comparison()
    assert found["refinement"]["tokens"] == 4 * (4 + 2) + 2 * 6 == 36
    assert found["best_of_n"]["n"] == pytest.approx(2.25)
    assert found["best_of_n"]["tokens"] == 36
    assert [row["tokens"] for row in found["best_of_n"]["at"]] == [16, 32, 48]


def test_scores_are_those_at_that_many_tokens() -> None:
    found = comparison()
    assert [row["vote"] for row in found["best_of_n"]["at"]] == [0.5, 0.5, 0.5]
    assert [row["ceiling"] for row in found["best_of_n"]["at"]] == [0.5, 0.75, 0.75]
    # By questions: with two drafts right, wrong, right, wrong; with three right, right, wrong, wrong.
    assert found["vote"]["value"] == pytest.approx(0.75 * 0.5 + 0.25 * 0.5)
    assert found["ceiling"]["value"] == pytest.approx(0.75)
    assert (found["draft"]["value"], found["refined"]["value"]) == (0.5, 0.5)
    assert found["difference"]["value"] == pytest.approx(found["refined"]["value"] - found["vote"]["value"])
    assert found["winner"] == "not told apart"


def test_what_became_of_each_draft_is_counted_and_shown() -> None:
    found = comparison()
    counts = {"wrong_to_right": 1, "right_to_wrong": 1, "right_kept": 1, "wrong_kept": 1}
    assert counts.items() <= found["refinement"].items()
    assert found["refinement"]["fault_found_in_wrong"] == found["refinement"]["fault_found_in_right"] == 1
    assert {row["ending"] for row in found["examples"]} == set(counts)
    assert next(row for row in found["examples"] if row["ending"] == "wrong_kept")["revision"] is None


@pytest.mark.parametrize(("refined", "winner"), [("so 1", "refinement"), ("so 2", "best-of-n")])
def test_the_winner_is_told_by_the_paired_interval(refined: str, winner: str) -> None:
    drafted, voted = ("so 2", "so 2") if refined == "so 1" else ("so 1", "so 1")
    attempts = [attempt(Answer(drafted, 4), Answer("Wrong", 0), Answer(refined, 4)) for _ in range(30)]
    drafts = [answers(*[drafted] * 30), answers(*[voted] * 30)]
    found = compared(attempts, drafts, lambda texts: [text == "so 1" for text in texts], SETTINGS, 0)
    assert found["winner"] == winner
    assert found["best_of_n"]["n"] == 2
