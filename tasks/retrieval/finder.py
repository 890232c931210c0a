"""What an index finds for the questions of a data set, and which of its chunks hold their answers."""

import random
from collections import defaultdict
from collections.abc import Sequence, Set
from typing import Any, Literal, Protocol

from tasks.retrieval.passages import Passage, Question

Facts = dict[str, list[dict[str, Any]]]
"""Id of a chunk to the rows of the questions that it answers."""


class Searches(Protocol):
    """What is asked of an index."""

    @property
    def chunks(self) -> Sequence[Any]:
        """Chunks of the index, each with `id`, `document` and `text`."""

    def search(self, queries: Sequence[str], k: int, by: Literal["lexical", "dense", "fused"]) -> list[list[Any]]:
        """Find the best `k` chunks of each query: objects with `chunk` and `relevance`, best first."""


class Finder:
    """Asks an index.

    Args:
        index: which one.
        hits: passages asked for, for each question.
        by: part of the index that is asked.
        seed: of draws.
    """

    def __init__(self, index: Searches, hits: int, by: Literal["lexical", "dense", "fused"], seed: int) -> None:
        self.index = index
        self.hits = hits
        self.by = by
        self.rng = random.Random(seed)
        self.of_document: dict[str, list[Any]] = defaultdict(list)
        for chunk in index.chunks:
            self.of_document[chunk.document].append(chunk)

    def questions(self, rows: Sequence[dict[str, Any]], hidden: Set[str]) -> tuple[list[Question], dict[str, Any]]:
        """Ask the index every row's `question`.

        Args:
            rows: with `question`, `answer`, `document` and `quote`, as `tasks.generators.facts` describes them.
            hidden: documents that may stand in no prompt, because a test asks about them.

        Returns:
            The questions, and counts: `read`, those whose sentence stands in no chunk and that are left out for it, and
            the share of the others whose answer is in the best hit.
        """
        found = self.index.search([row["question"] for row in rows], self.hits + 1, self.by)
        pool = [chunk for chunk in self.index.chunks if chunk.document not in hidden]
        answers: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            answers[row.get("kind", "")].append(row["answer"])
        made, first = [], 0
        lost = 0
        for row, hits in zip(rows, found, strict=True):
            gold = {chunk.id for chunk in self.of_document[row["document"]] if row["quote"] in chunk.text}
            if row["document"] and not gold:
                lost += 1
                continue
            shown = [hit for hit in hits if hit.chunk.document not in hidden]
            chunks = [hit.chunk for hit in shown]
            first += bool(chunks) and chunks[0].id in gold
            near = {chunk.id for chunk in chunks} | gold
            drawn = self.rng.sample(pool, min(self.hits, len(pool)))
            made.append(
                Question(
                    row=row,
                    gold=[_passage(c, gold) for c in self.of_document[row["document"]] if c.id in gold],
                    hits=[_passage(hit.chunk, gold)._replace(relevance=hit.relevance) for hit in shown],
                    lure=self._lure(row, answers[row.get("kind", "")]),
                    others=[_passage(chunk, gold) for chunk in drawn if chunk.id not in near],
                )
            )
        answerable = sum(bool(question.gold) for question in made)
        counts = {"read": len(rows), "in no chunk": lost, "best hit is right": round(first / max(1, answerable), 4)}
        return made, counts

    def facts(self, questions: Sequence[Question]) -> Facts:
        """List what each chunk answers, by the questions."""
        facts: Facts = defaultdict(list)
        for question in questions:
            for passage in question.gold:
                facts[passage.id].append(question.row)
        return dict(facts)

    def _lure(self, row: dict[str, Any], answers: Sequence[str]) -> str:
        """Draw the answer to another question of the kind; the row's own where all have the same."""
        others = [answer for answer in self.rng.choices(answers, k=20) if answer not in ("", row["answer"])]
        return others[0] if others else row["answer"]


def _passage(chunk: Any, gold: Set[str]) -> Passage:
    return Passage(chunk.id, chunk.text, chunk.id in gold)
