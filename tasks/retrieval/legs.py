"""The legs of an index on held-out questions: words, vectors and both fused, and which of them found the right passage.

A question's relevant passages are the chunks of its document that hold its quote, so they fit any way of cutting
documents. A question whose quote no chunk holds whole has none; it is left out of the scores, and counted.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from tasks.retrieval import scores
from tasks.retrieval.chunks import Chunk, gold
from tasks.retrieval.prompts import PromptFormat
from tasks.retrieval.relevance import relevant, screened
from tasks.stage.errors import ArtifactError

Leg = Literal["lexical", "dense", "fused"]
LEGS: tuple[Leg, ...] = ("lexical", "dense", "fused")
"""Ways to search an index, the last one from both others."""
PARTS = ("embed", "lexical", "dense", "fuse")
"""Parts of a search whose seconds an index measures."""
TOP = 3
"""Passages among which `found_by` looks: about what a reader is shown."""


class Searched(Protocol):
    """What is asked of an index (`tasks.retrieval.index.Index`)."""

    @property
    def chunks(self) -> Sequence[Chunk]:
        """Chunks of the index, sorted by document."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds of the last search, by part."""

    def search(self, queries: Sequence[str], k: int, by: Leg = "fused") -> list[list[Any]]:
        """Find the best `k` chunks of each query: objects with `chunk` and `relevance`, best first."""


def questions(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """List one row of each question that has an answer in the documents, in the order of the rows.

    Those of `contradicting` are left out: they are the training's.
    """
    first: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["quote"] and row["condition"] != "contradicting":
            first.setdefault(row["asked"], row)
    return list(first.values())


def check_shown(index: Searched, rows: Sequence[Mapping[str, Any]], by: Leg, form: PromptFormat, path: Path) -> None:
    """Check that the passages of rows under `retrieved` are those that the index finds now, in whatever order.

    Args:
        index: the index.
        rows: under all conditions.
        by: leg that found the passages.
        form: of the prompts, which says how many are shown and how relevant they are.
        path: file of the rows, for messages.

    Raises:
        ArtifactError: naming the first row that shows others.
    """
    numbered = [(number, row) for number, row in enumerate(rows, 1) if row["condition"] == "retrieved"]
    found = index.search([row["asked"] for _, row in numbered], scores.DEPTH, by) if numbered else []
    for (number, row), hits in zip(numbered, found, strict=True):
        ids = [hit.chunk.id for hit in relevant(hits[: form.passages], form.least_relevance)]
        if sorted(ids) != sorted(row["passages"]):
            raise ArtifactError(
                f"{path}:{number}: shows the passages {', '.join(row['passages'])}, and the index finds by {by} "
                f"{', '.join(ids) or 'none'} for '{row['asked']}'; make the rows anew with `polm run`, or correct "
                f"`retrieval.by`"
            )


def latency(index: Searched, asked: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Measure the seconds of a search for one question: the mean of each part, and of the whole (`search`).

    Args:
        index: the index; a first search warms it up and does not count.
        asked: questions, each searched for alone.
    """
    if not asked:
        return {}
    index.search([asked[0]["asked"]], scores.DEPTH)
    parts = dict.fromkeys(PARTS, 0.0)
    start = time.perf_counter()
    for row in asked:
        index.search([row["asked"]], scores.DEPTH)
        for part in PARTS:
            parts[part] += index.seconds.get(part, 0.0)
    parts["search"] = time.perf_counter() - start
    return {part: seconds / len(asked) for part, seconds in parts.items()}


def compare(
    index: Searched, asked: Sequence[Mapping[str, Any]], form: PromptFormat, resamples: int, seed: int
) -> dict[str, Any]:
    """Score each leg of an index on the same questions.

    Args:
        index: the index.
        asked: questions with `asked`, `document` and `quote`.
        form: of the prompts, which says how relevant a passage must be to be shown.
        resamples: bootstrap samples of each interval.
        seed: of the resampling.

    Returns:
        `questions` (scored) and `without_passage` (left out); `legs`, of each the metrics of `tasks.retrieval.scores`
        with intervals; `fused_over`, of the two single ones the paired differences of the fusion from it;
        `found_by`; and, where the prompts take relevant passages alone, `screen`
        (`tasks.retrieval.relevance.screened`).
    """
    rows = {row["asked"]: set(gold(index.chunks, row["document"], row["quote"])) for row in asked}
    wanted = {query: held for query, held in rows.items() if held}
    result: dict[str, Any] = {"questions": len(wanted), "without_passage": len(rows) - len(wanted)}
    if not wanted:
        return result
    number = {chunk.id: row for row, chunk in enumerate(index.chunks)}
    hits = {leg: dict(zip(wanted, index.search(list(wanted), scores.DEPTH, leg), strict=True)) for leg in LEGS}
    rankings = {
        leg: {query: [number[hit.chunk.id] for hit in found] for query, found in of.items()} for leg, of in hits.items()
    }
    scored = {leg: scores.of_rankings(ranked, wanted) for leg, ranked in rankings.items()}
    result["legs"] = {leg: scores.intervals(values, resamples, seed) for leg, values in scored.items()}
    result["fused_over"] = {
        leg: scores.differences(scored["fused"], scored[leg], resamples, seed) for leg in LEGS if leg != "fused"
    }
    if form.least_relevance is not None:
        shown = [found[: form.passages] for found in hits["fused"].values()]
        ids = [{index.chunks[row].id for row in held} for held in wanted.values()]
        result["screen"] = screened(shown, ids, form.least_relevance)
    return {**result, "found_by": found_by(rankings, wanted)}


def found_by(rankings: Mapping[Leg, Mapping[str, Sequence[int]]], wanted: Mapping[str, set[int]]) -> dict[str, float]:
    """Say which leg found the passages that the fusion shows.

    Args:
        rankings: leg to question to the rows of chunks that it found, the best first.
        wanted: question to the rows of its relevant chunks.

    Returns:
        Of the questions with a relevant chunk among the first `TOP` of the fusion, the shares of which `both` legs,
        `lexical` or `dense` alone, or `neither` has one among its first; empty where there are no such questions.
    """
    held = {
        leg: {query: bool(wanted[query] & set(rows[:TOP])) for query, rows in ranked.items()}
        for leg, ranked in rankings.items()
    }
    names = {(True, True): "both", (True, False): "lexical", (False, True): "dense", (False, False): "neither"}
    counts = dict.fromkeys(names.values(), 0)
    for query in wanted:
        if held["fused"][query]:
            counts[names[held["lexical"][query], held["dense"][query]]] += 1
    of = sum(counts.values())
    return {name: round(count / of, 6) for name, count in counts.items()} if of else {}
