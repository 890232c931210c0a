"""Which passages stand in a prompt: those found, less or more than was found, or one that somebody has tampered with.

Every function works on one question and what the index found for it, so that training rows, preferences and the rows
of an evaluation are made alike. Nothing here reads a file or a model.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from tasks.retrieval.relevance import relevant
from tasks.stage.config import Strict

LURE = "{lure}"
"""Place of the answer that a planted instruction wants to be given."""


class Distractors(Strict):
    """Where passages that do not hold the answer come from."""

    nearest: float = Field(ge=0, le=1)
    """Share that is the best hit of those left, 0 to 1."""
    random: float = Field(ge=0, le=1)
    """Share drawn among all passages, 0 to 1; the rest is drawn among the hits."""

    fewer: float = Field(ge=0, le=1)
    """Share of the training rows without the answer, 0 to 1, that have any number of passages; the others the most."""
    alone: float = Field(default=0.0, ge=0, le=1)
    """Share of the training rows with a planted instruction, and of the pairs whose rejected reply abstains, 0 to 1,
    that show the right passage alone.
    """

    @model_validator(mode="after")
    def _leave_a_rest(self) -> Self:
        """Refuse shares of more than the whole."""
        if self.nearest + self.random > 1:
            raise ValueError(f"nearest {self.nearest:g} and random {self.random:g} are together above 1; lower one")
        return self


class Passage(NamedTuple):
    """One passage of a prompt."""

    id: str
    """Id of the chunk it comes from."""
    text: str
    """What stands in the prompt."""
    holds: bool
    """Whether it is a gold chunk of the question, with its answer as the documents have it."""
    relevance: float | None = None
    """Probability, 0 to 1, by the index that it answers the question; None where the index does not say."""


@dataclass(frozen=True)
class Question:
    """One row of a question set, and what the index found for it."""

    row: dict[str, Any]
    """The row; its columns are in the documentation of the data stage."""
    gold: list[Passage]
    """The chunks that hold the answer; empty where no document does."""
    hits: list[Passage]
    """What the index found, best first, gold among it or not."""
    lure: str
    """Answer to another question of the same kind: plausible and wrong."""
    others: list[Passage] = field(default_factory=list)
    """Passages that are neither gold nor found."""


def found(question: Question, count: int, least: float | None = None) -> list[Passage]:
    """Return the best `count` hits, less those of a relevance below `least`."""
    return relevant(question.hits[:count], least)


def removed(question: Question, count: int, least: float | None = None) -> list[Passage]:
    """Return the best `count` hits that do not hold the answer, less those of a relevance below `least`."""
    return relevant([hit for hit in question.hits if not hit.holds][:count], least)


def wrong(question: Question, count: int, rng: random.Random) -> list[Passage]:
    """Draw `count` passages that were not found for the question."""
    return rng.sample(question.others, min(count, len(question.others)))


def distracting(question: Question, count: int, shares: Distractors, rng: random.Random) -> list[Passage]:
    """Draw `count` different passages that do not hold the answer, by `shares`; fewer where there are no more."""
    hits, others = [hit for hit in question.hits if not hit.holds], list(question.others)
    drawn: list[Passage] = []
    while len(drawn) < count and (hits or others):
        place = rng.random()
        if hits and place < shares.nearest:
            drawn.append(hits.pop(0))
        elif others and (place >= 1 - shares.random or not hits):
            drawn.append(others.pop(rng.randrange(len(others))))
        else:
            drawn.append(hits.pop(rng.randrange(len(hits))))
    return drawn


def among(question: Question, distractors: Sequence[Passage], rng: random.Random) -> list[Passage]:
    """Put one gold passage among distractors, in any place."""
    passages = [rng.choice(question.gold), *distractors]
    rng.shuffle(passages)
    return passages


def planted(passages: Sequence[Passage], wordings: Sequence[str], lure: str, rng: random.Random) -> list[Passage]:
    """Plant an instruction, which asks to give `lure`, before or after the text of one passage, gold or not."""
    at = rng.randrange(len(passages))
    order = rng.choice(wordings).replace(LURE, lure)
    victim = passages[at]
    text = f"{order} {victim.text}" if rng.random() < 0.5 else f"{victim.text} {order}"
    return [*passages[:at], victim._replace(text=text), *passages[at + 1 :]]


def falsified(passage: Passage, row: dict[str, Any], lure: str) -> Passage:
    """Write a passage with `lure` in the place of the answer, in the sentence that holds it."""
    return passage._replace(text=passage.text.replace(row["quote"], false_quote(row, lure)), holds=False)


def false_quote(row: dict[str, Any], lure: str) -> str:
    """Write the sentence that holds a row's answer with `lure` in its place, the last one of the sentence."""
    before, _, after = row["quote"].rpartition(row["answer"])
    return f"{before}{lure}{after}"


def poisoned(question: Question, count: int, rng: random.Random, least: float | None = None) -> list[Passage]:
    """Add to the best hits a copy of the gold passage that tells another answer, so that both tell theirs."""
    gold = question.gold[0]
    rest = removed(question, max(0, count - 2), least)
    passages = [gold, falsified(gold, question.row, question.lure), *rest]
    rng.shuffle(passages)
    return passages
