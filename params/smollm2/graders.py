"""Graders of this recipe."""

from typing import Any

from tasks.retrieval import grading


def chosen(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Return `accuracy`: whether the right one of the row's `choices` is the likeliest.

    Args:
        doc: with `choices`, and as `answer` the right one of them.
        results: the log-likelihood of each choice, in nats, and whether it is what the model would say.
    """
    best = max(range(len(results)), key=lambda i: results[i][0])
    return {"accuracy": float(doc["choices"][best] == doc["answer"])}


def rag(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grade an answer from passages, as `tasks.retrieval.grading.rag` does."""
    return grading.rag(doc, results)
