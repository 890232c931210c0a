"""The legs of an index on held-out questions: words, vectors and both fused, and which of them found the right passage.

A question's relevant passages are the chunks of its document that hold its quote, so they fit any way of cutting
documents. A question whose quote no chunk holds whole has none and is left out of the scores, and counted.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.evaluation.pictures import Resampling
from tasks.grading.bootstrap import paired_difference, verdict
from tasks.retrieval import scores
from tasks.retrieval.chunks import gold
from tasks.retrieval.index import Index
from tasks.stage.errors import ArtifactError

LEGS = ("lexical", "dense", "fused")
"""Ways to search an index, the last one from both others."""
PARTS = ("embed", "lexical", "dense", "fuse")
"""Parts of a search whose seconds an index measures."""


class Question(NamedTuple):
    """A question with the place of its answer."""

    query: str
    """Question alone."""
    document: str
    """Id of the document that holds the answer."""
    quote: str
    """Sentence of the document that holds it."""


def questions(rows: Sequence[Mapping[str, Any]]) -> list[Question]:
    """List the questions of rows that have an answer in the documents, each once, in the order of the rows."""
    asked = (Question(row["query"], row["document"], row["quote"]) for row in rows if row["quote"])
    return list(dict.fromkeys(asked))


def check_shown(index: Index, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Check that the passages of rows under `retrieved` are those that the index finds now, in whatever order.

    Args:
        index: the index.
        rows: under all conditions.
        path: their file, for messages.

    Raises:
        ArtifactError: naming the first row that shows others.
    """
    shown = {number: row for number, row in enumerate(rows, 1) if row["condition"] == "retrieved"}
    most = max((len(row["passages"]) for row in shown.values()), default=0)
    if not most:
        return
    found = index.search([row["query"] for row in shown.values()], most)
    for (number, row), hits in zip(shown.items(), found, strict=True):
        ids = [hit.chunk.id for hit in hits[: len(row["passages"])]]
        if sorted(ids) != sorted(row["passages"]):
            raise ArtifactError(
                f"{path}:{number}: shows the passages {', '.join(row['passages'])}, and the index finds "
                f"{', '.join(ids) or 'none'} for '{row['query']}'; make the rows anew with `polm run`"
            )


def latency(index: Index, asked: Sequence[Question], depth: int) -> dict[str, float]:
    """Measure the seconds of a search for one question: the mean of each part, and of the whole (`search`).

    Args:
        index: the index, warmed up by a first question that does not count.
        asked: questions, each searched for alone.
        depth: passages that are found.
    """
    if not asked:
        return {}
    index.search([asked[0].query], depth)
    parts = dict.fromkeys(PARTS, 0.0)
    start = time.perf_counter()
    for question in asked:
        index.search([question.query], depth)
        for part in PARTS:
            parts[part] += index.seconds.get(part, 0.0)
    parts["search"] = time.perf_counter() - start
    return {part: seconds / len(asked) for part, seconds in parts.items()}


def compare(
    index: Index, asked: Sequence[Question], recall_at: Sequence[int], depth: int, settings: Resampling
) -> dict[str, Any]:
    """Score each leg of an index on the same questions.

    Args:
        index: the index.
        asked: questions with an answer in the documents.
        recall_at: passages among which relevant ones count, for each recall.
        depth: passages that nDCG and the reciprocal rank look at.
        settings: of the intervals.

    Returns:
        `questions` (scored) and `without_passage` (left out); `legs`, of each `recall@k`, `ndcg@depth` and `mrr@depth`
        with intervals, and of the two single ones `fused_over`, the paired differences of the fusion; `found_by`, of
        the questions answered among the first max(`recall_at`) of the fusion the share that either leg finds there
        alone, that both do, and that neither does.
    """
    relevant = {question: {index.chunks[row].id for row in gold(index.chunks, question.document, question.quote)} for question in asked}
    scored = [question for question in asked if relevant[question]]
    result: dict[str, Any] = {"questions": len(scored), "without_passage": len(asked) - len(scored)}
    if not scored:
        return result
    wanted = [relevant[question] for question in scored]
    most = max(depth, *recall_at)
    ranked = {
        leg: [[hit.chunk.id for hit in hits] for hits in index.search([q.query for q in scored], most, by=leg)]
        for leg in LEGS
    }
    rows = {leg: _scores(ranked[leg], wanted, recall_at, depth) for leg in LEGS}
    result["legs"] = {leg: {name: scores.interval(values, settings) for name, values in rows[leg].items()} for leg in LEGS}
    for leg in LEGS[:-1]:
        result["legs"][leg]["fused_over"] = {
            name: _difference(rows["fused"][name], values, settings) for name, values in rows[leg].items()
        }
    return {**result, "found_by": found_by(ranked, wanted, max(recall_at))}


def found_by(ranked: Mapping[str, Sequence[Sequence[str]]], wanted: Sequence[set[str]], k: int) -> dict[str, float]:
    """Say which leg found the passages that the fusion shows.

    Args:
        ranked: leg to the ids that it found for each question, the best first.
        wanted: relevant ids of each question.
        k: passages that count.

    Returns:
        Of the questions with a relevant passage among the first `k` of the fusion, the shares of which `both` legs,
        `lexical` or `dense` alone, or `neither` has one among its first `k`; empty where there are no such questions.
    """
    held = {leg: [bool(ids & set(found[:k])) for ids, found in zip(wanted, ranked[leg], strict=True)] for leg in LEGS}
    names = {(True, True): "both", (True, False): "lexical", (False, True): "dense", (False, False): "neither"}
    counts = dict.fromkeys(names.values(), 0)
    for lexical, dense, fused in zip(*(held[leg] for leg in LEGS), strict=True):
        if fused:
            counts[names[lexical, dense]] += 1
    of = sum(counts.values())
    return {name: round(count / of, 6) for name, count in counts.items()} if of else {}
