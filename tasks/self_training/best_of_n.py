"""Self-refinement against best-of-n at the same number of generated tokens.

Whatever spends tokens gets better: a revision has to be held against the drafts that its tokens would have bought
(Huang et al., arXiv:2310.01798, who find self-correction behind self-consistency at equal cost). Here both begin with
the same greedy draft. One goes on to a critique and, where that finds fault, a revision; the other draws more drafts
and takes the answer that most of them give (self-consistency, Wang et al., arXiv:2203.11171), the earliest where that
is a tie. No grader looks in between; what a perfect choice among the drafts would get (`ceiling`) takes one.

The tokens of whole drafts meet those of the refinement nowhere: n is a fraction. With n = 2.4 a share of 0.4 of the
questions, drawn at random, gets a third draft, and scores are the expectation over that draw. So the numbers of tokens
are equal, in expectation and exactly. Only what is generated counts; what is read is longer for the refinement.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from pydantic import Field

from tasks.grading.bootstrap import Interval, mean_interval, paired_difference, verdict
from tasks.sampling.sample import Answer
from tasks.self_training.revision import Attempt, answer_key
from tasks.stage.config import Strict

WINNER = {"better": "refinement", "worse": "best-of-n", "no difference": "not told apart"}
"""Verdict on refinement minus best-of-n to the winner's name."""


class Comparison(Strict):
    """How refinement is compared with best-of-n, and on how many questions."""

    prompts: int = Field(ge=1)
    """Most prompts of the validation split that are asked, from the first."""
    temperature: float = Field(gt=0)
    """Temperature of all drafts that are voted on but the first, which is the greedy one."""
    top_p: float = Field(gt=0, le=1)
    """Share of the probability mass that they may be drawn from."""
    resamples: int = Field(ge=1)
    """Bootstrap samples of each interval."""
    confidence: float = Field(gt=0, lt=1)
    """Coverage of the intervals."""
    examples: int = Field(ge=0)
    """Conversations shown for each way in which a draft and its revision can end."""


def vote(texts: Sequence[str]) -> int:
    """Find the index of the first text that gives the answer which most of them give."""
    keys = [answer_key(text) for text in texts]
    votes = Counter(key for key in keys if key is not None)
    return keys.index(votes.most_common(1)[0][0]) if votes else 0


def samples_within(spent: Sequence[int], tokens: int) -> tuple[int, float]:
    """Find how many drafts of each question `tokens` buy.

    Args:
        spent: tokens of the first 1, 2, … drafts of all questions, rising.
        tokens: to spend on all of them.

    Returns:
        Whole drafts n, at least 1, and the fraction of the questions, from 0 to below 1, that get one more.
    """
    n_drafts = max(1, sum(total <= tokens for total in spent))
    if n_drafts == len(spent):
        return n_drafts, 0.0
    return n_drafts, max(0.0, (tokens - spent[n_drafts - 1]) / (spent[n_drafts] - spent[n_drafts - 1]))


def draw_drafts(first: list[Answer], draw: Callable[[int], list[Answer]], tokens: int) -> list[list[Answer]]:
    """Draw drafts of all questions, the first one given, until they have cost `tokens`; shape (drafts, questions)."""
    drafts = [first]
    while sum(answer.tokens for column in drafts for answer in column) < tokens:
        drafts.append(draw(len(drafts)))
    return drafts


def compared(
    attempts: Sequence[Attempt],
    drafts: Sequence[Sequence[Answer]],
    right: Callable[[Sequence[str]], list[bool]],
    settings: Comparison,
    seed: int,
) -> dict[str, Any]:
    """Find who wins, with every number that says so.

    Args:
        attempts: the refinement of each question's greedy draft, shape (n,).
        drafts: drafts of the same questions, shape (k, n); the first are those of `attempts`.
        right: whether each of n texts, one a question, is right.
        settings: resamples, coverage, examples.
        seed: of the bootstrap.

    Returns:
        `draft`, `refined`, `vote`, `ceiling` and their differences, as intervals; `winner`; `refinement` and
        `best_of_n` with tokens and counts; `examples`.
    """
    spent = list(accumulate(sum(answer.tokens for answer in column) for column in drafts))
    tokens = sum(attempt.tokens for attempt in attempts)
    n_drafts, fraction = samples_within(spent, tokens)
    right_drafts = [right([answer.text for answer in column]) for column in drafts]
    right_finals = right([attempt.final for attempt in attempts])
    counts = range(1, len(drafts) + 1)
    vote_picks = [_vote_picks(drafts[:n]) for n in counts]
    vote_scores = [[right_drafts[pick][i] for i, pick in enumerate(picks)] for picks in vote_picks]
    ceiling_scores = [[any(column[i] for column in right_drafts[:n]) for i in range(len(attempts))] for n in counts]
    scores = {
        "draft": _floats(right_drafts[0]),
        "refined": _floats(right_finals),
        "vote": _interpolate_scores(vote_scores, n_drafts, fraction),
        "ceiling": _interpolate_scores(ceiling_scores, n_drafts, fraction),
    }
    bootstrap: dict[str, Any] = {"resamples": settings.resamples, "confidence": settings.confidence, "seed": seed}
    difference = _difference(scores["refined"], scores["vote"], bootstrap)
    next_total = spent[min(n_drafts, len(spent) - 1)]
    return {
        **{name: asdict(mean_interval(values, **bootstrap)) for name, values in scores.items()},
        "gain": asdict(_difference(scores["refined"], scores["draft"], bootstrap)),
        "difference": asdict(difference),
        "winner": WINNER[verdict(difference, higher_is_better=True)],
        "questions": len(attempts),
        "refinement": {"tokens": tokens, **_outcomes(attempts, right_drafts[0], right_finals)},
        "best_of_n": {
            "n": n_drafts + fraction,
            "tokens": round(spent[n_drafts - 1] + fraction * (next_total - spent[n_drafts - 1])),
            "at": [
                {
                    "n": n,
                    "tokens": spent[n - 1],
                    "vote": _mean(vote_scores[n - 1]),
                    "ceiling": _mean(ceiling_scores[n - 1]),
                }
                for n in counts
            ],
        },
        "examples": _examples(attempts, right_drafts[0], right_finals, settings.examples),
    }


def _vote_picks(drafts: Sequence[Sequence[Answer]]) -> list[int]:
    """Find the number of the draft that the vote picks for each question."""
    return [vote([answer.text for answer in row]) for row in zip(*drafts, strict=True)]


def _floats(values: Sequence[bool]) -> list[float]:
    return [float(value) for value in values]


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _interpolate_scores(by_count: Sequence[Sequence[bool]], n_drafts: int, fraction: float) -> list[float]:
    """Find each question's expected score with `n_drafts`, and one more with probability `fraction`."""
    fewer = by_count[n_drafts - 1]
    more = by_count[n_drafts] if fraction else fewer
    return [(1 - fraction) * a + fraction * b for a, b in zip(fewer, more, strict=True)]


def _difference(ours: Sequence[float], theirs: Sequence[float], bootstrap: Mapping[str, Any]) -> Interval:
    return paired_difference(_by_number(ours), _by_number(theirs), **bootstrap)


def _by_number(scores: Sequence[float]) -> dict[str, float]:
    return {str(number): score for number, score in enumerate(scores)}


def _ending(before: bool, after: bool) -> str:
    return f"{'right' if before else 'wrong'}_{'kept' if before == after else 'to_right' if after else 'to_wrong'}"


def _outcomes(attempts: Sequence[Attempt], before: Sequence[bool], after: Sequence[bool]) -> dict[str, int]:
    """Count how drafts and revisions ended, and how often the critique found fault with right and with wrong drafts."""
    ends = Counter(map(_ending, before, after))
    faulted = Counter(ok for attempt, ok in zip(attempts, before, strict=True) if attempt.revision)
    names = ("wrong_to_right", "right_to_wrong", "right_kept", "wrong_kept")
    return {
        **{name: ends[name] for name in names},
        "fault_found_in_wrong": faulted[False],
        "fault_found_in_right": faulted[True],
        "revised": sum(faulted.values()),
    }


def _examples(
    attempts: Sequence[Attempt], before: Sequence[bool], after: Sequence[bool], each: int
) -> list[dict[str, Any]]:
    counts: Counter[str] = Counter()
    rows = []
    for attempt, ending in zip(attempts, map(_ending, before, after), strict=True):
        counts[ending] += 1
        if counts[ending] <= each:
            revision = attempt.revision.text if attempt.revision else None
            texts = {"draft": attempt.draft.text, "critique": attempt.critique.text, "revision": revision}
            rows.append({"ending": ending, "question": attempt.prompt[-1]["content"], **texts})
    return rows
