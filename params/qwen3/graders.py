"""Graders of this recipe."""

from typing import Any

from tasks.retrieval import grading


def rag(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grade an answer from passages, as `tasks.retrieval.grading.rag` does."""
    return grading.rag(doc, results)
