"""Rows that teach a reader to answer from passages, to quote them, and to abstain; and rows that test it.

RAFT (Zhang et al., arXiv:2403.10131) trains on the gold passage among distractors, and in a share of the rows on
distractors alone. The paper leaves open what is to be answered there: here the reader abstains.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from tasks.retrieval import passages as choose
from tasks.retrieval.finder import Facts
from tasks.retrieval.passages import Distractors, Passage, Question
from tasks.retrieval.prompts import PromptFormat
from tasks.stage.config import Strict

Rename = Callable[[list[str], random.Random], list[str]]
"""Writes texts anew about somebody else; see `tasks.generators.facts.renamed`."""


class Weights(Strict):
    """Names with weights, of which one is above 0 at least."""

    @model_validator(mode="after")
    def _are_not_all_zero(self) -> Self:
        """Refuse weights of which nothing can be drawn."""
        if not any(self.model_dump().values()):
            raise ValueError("all weights are 0; raise one")
        return self


class Shares(Weights):
    """Kinds of training rows, by weight; a question without an answer in the documents is `removed` in any case."""

    closed: float = Field(ge=0)
    """The question alone; the reply abstains."""
    gold: float = Field(ge=0)
    """A passage with the answer alone."""
    retrieved: float = Field(ge=0)
    """A passage with the answer among distractors."""
    removed: float = Field(ge=0)
    """Distractors alone; the reply abstains. RAFT's 1 - P."""
    planted: float = Field(ge=0)
    """As `retrieved`, with an instruction in one of the passages, which the reply does not follow."""


class Unfaithful(Weights):
    """Kinds of rejected replies, by weight."""

    distractor: float = Field(ge=0)
    """Quotes and answers from a passage that does not hold the answer."""
    unsupported: float = Field(ge=0)
    """Answers where the passages do not hold the answer: with a distractor's sentence and value."""
    abstaining: float = Field(ge=0)
    """Abstains although a passage holds the answer."""
    obeying: float = Field(ge=0)
    """Gives what an instruction in a passage wants."""


class Renumbering(Strict):
    """Training rows whose passages are not numbered from 1: a number is then read from the prompt, and not guessed."""

    first: int = Field(ge=2)
    """Largest number of a row's first passage; it is drawn from 1 to this."""
    share: float = Field(ge=0, le=1)
    """Share of the training rows and pairs, 0 to 1."""

    def drawn(self, rng: random.Random) -> int:
        """Draw the number of a row's first passage."""
        return rng.randint(1, self.first) if rng.random() < self.share else 1


class Asked:
    """Makes the rows of one question set.

    Args:
        form: how passages and question become a prompt.
        distractors: where passages without the answer come from.
        wordings: instructions that are planted, with `{lure}`.
        facts: id of a chunk to the rows of the questions that it answers.
        untold: share of the rows with a further question that the passages do not answer, 0 to 1.
        renumbering: which rows' passages are numbered from another number than 1; None: no row's.
    """

    def __init__(
        self,
        form: PromptFormat,
        distractors: Distractors,
        wordings: Sequence[str],
        facts: Facts,
        untold: float,
        renumbering: Renumbering | None = None,
    ) -> None:
        self.form = form
        self.distractors = distractors
        self.wordings = wordings
        self.facts = facts
        self.untold = untold
        self.renumbering = renumbering
        self.of_document: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for rows in facts.values():
            for row in rows:
                self.of_document[row["document"]].append(row)

    def shown(self, question: Question, kind: str, rng: random.Random) -> list[Passage]:
        """Choose the passages of a training row of one of the kinds of `Shares`."""
        most = self.form.passages
        if kind == "closed":
            return []
        if kind == "gold":
            return [rng.choice(question.gold)]
        if kind == "removed":
            count = rng.randint(1, most) if rng.random() < self.distractors.fewer else most
            return choose.distracting(question, count, self.distractors, rng)
        others = (
            []
            if kind == "planted" and self.alone(rng)
            else choose.distracting(question, most - 1, self.distractors, rng)
        )
        passages = choose.among(question, others, rng)
        return choose.planted(passages, self.wordings, question.lure, rng) if kind == "planted" else passages

    def alone(self, rng: random.Random) -> bool:
        """Draw whether the right passage stands alone where it might stand among others; a share of 0 draws nothing."""
        return self.distractors.alone > 0 and rng.random() < self.distractors.alone

    def taught(
        self, question: Question, shares: Shares, turns: int, rename: Rename | None, rng: random.Random
    ) -> dict[str, Any]:
        """Make one row to learn from: `messages`, and what it shows in `condition`.

        Args:
            question: the first that is asked.
            shares: of the kinds of rows.
            turns: most questions about the same passages; the further ones are answered by the other passages, or by
                the same document and by none of the passages.
            rename: what writes the row anew about somebody else; None leaves it.
            rng: of all draws.
        """
        kind = drawn(shares.model_dump(), rng) if question.gold else "removed"
        shown = self.shown(question, kind, rng)
        asked = [question.row, *self.further(question, shown, turns - 1, rng)]
        asked, passages, _ = renamed(asked, shown, [], rename, rng)
        first = self.first_number(rng)
        prompt = self.form.render(asked[0]["question"], [p.text for p in passages], first)
        messages = []
        for text, row in zip([prompt, *(row["question"] for row in asked[1:])], asked, strict=True):
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": self.faithful(row, passages, first)})
        return {"messages": messages, "condition": kind, **_origin(question.row)}

    def further(
        self, question: Question, shown: Sequence[Passage], count: int, rng: random.Random
    ) -> list[dict[str, Any]]:
        """Choose at most `count` further questions about a prompt's passages, each of another fact, told ones first."""
        told = _by_quote((row for passage in shown for row in self.facts.get(passage.id, [])), question, rng)
        rest = [row for row in self.of_document[question.row["document"]] if shown and row["quote"] not in told]
        untold = _by_quote(rest, question, rng) if rng.random() < self.untold else {}
        return [*told.values(), *list(untold.values())[:1]][:count]

    def preferred(
        self, question: Question, unfaithful: Unfaithful, rename: Rename | None, rng: random.Random
    ) -> dict[str, Any] | None:
        """Make one pair, a faithful reply over one that is plausible and unsupported; None where none can be made."""
        weights = unfaithful.model_dump()
        if not question.gold:
            weights = {kind: weight if kind == "unsupported" else 0.0 for kind, weight in weights.items()}
        if not any(weights.values()):
            return None
        kind = drawn(weights, rng)
        row_kind = {"unsupported": "removed", "obeying": "planted"}.get(kind, "retrieved")
        if kind == "abstaining" and self.alone(rng):
            row_kind = "gold"
        shown = self.shown(question, row_kind, rng)
        number, said = self.temptation(kind, question, shown)
        if number == 0 and kind != "abstaining":
            return None
        (row,), passages, said = renamed([question.row], shown, said, rename, rng)
        first = self.first_number(rng)
        cited = number + first - 1
        rejected = self.form.answer(said[0], cited, said[1]) if said else self.form.abstention(row.get("subject", ""))
        prompt = [{"role": "user", "content": self.form.render(row["question"], [p.text for p in passages], first)}]
        return {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": self.faithful(row, passages, first)}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "condition": kind,
            **_origin(question.row),
        }

    def first_number(self, rng: random.Random) -> int:
        """Draw the number of a row's first passage; without `renumbering` it is 1, and nothing is drawn."""
        return self.renumbering.drawn(rng) if self.renumbering else 1

    def faithful(self, row: dict[str, Any], passages: Sequence[Passage], first: int = 1) -> str:
        """Write the reply that is right: quotation, number and answer, or that the passages do not say it.

        Args:
            row: the question, with its answer and the sentence to quote.
            passages: as they stand in the prompt.
            first: number of the first of them.
        """
        for number, passage in enumerate(passages, first):
            if row["quote"] and row["quote"] in passage.text:
                return self.form.answer(row["quote"], number, row["answer"])
        return self.form.abstention(row.get("subject", ""))

    def temptation(self, kind: str, question: Question, shown: Sequence[Passage]) -> tuple[int, list[str]]:
        """Find what a reply of one of the kinds of `Unfaithful` quotes.

        Returns:
            The passage's number, from 1, and the sentence and answer that the reply gives; 0 and nothing where it gives
            none, or where the passages give no occasion for it.
        """
        for number, passage in enumerate(shown, 1):
            if kind == "obeying" and passage.holds:
                return number, [question.row["quote"], question.lure]
            if kind in ("distractor", "unsupported") and not passage.holds:
                for row in self.facts.get(passage.id, []):
                    return number, [row["quote"], row["answer"]]
        return 0, []


def renamed(
    rows: list[dict[str, Any]], shown: Sequence[Passage], others: list[str], rename: Rename | None, rng: random.Random
) -> tuple[list[dict[str, Any]], list[Passage], list[str]]:
    """Write rows of questions, their passages and other texts anew about somebody else, or leave them as they are."""
    if rename is None:
        return rows, list(shown), others
    columns = [(row, name) for row in rows for name in ("question", "answer", "quote", "subject") if name in row]
    old = [*(row[name] for row, name in columns), *others, *(passage.text for passage in shown)]
    new = iter(rename(old, rng))
    changed = [row | {name: next(new) for of, name in columns if of is row} for row in rows]
    said = [next(new) for _ in others]
    return changed, [passage._replace(text=next(new)) for passage in shown], said


def drawn(weights: dict[str, float], rng: random.Random) -> str:
    """Draw a name by weights, of which one at least is above 0."""
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def _by_quote(rows: Iterable[dict[str, Any]], question: Question, rng: random.Random) -> dict[str, dict[str, Any]]:
    """Choose one row for each sentence other than the question's own, in an order that is drawn."""
    mixed = [row for row in rows if row["quote"] != question.row["quote"]]
    rng.shuffle(mixed)
    return {row["quote"]: row for row in mixed}


def _origin(row: dict[str, Any]) -> dict[str, Any]:
    """Name what a row was made from, for graders and for lineage."""
    return {name: row[name] for name in ("kind", "family", "document") if name in row}
