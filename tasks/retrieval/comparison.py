"""Rankings of the same questions by several searches, as a stage reports them: means, intervals, paired differences."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tasks.retrieval import scores

PAIRS = (("after", "before"), ("after", "lexical"), ("fused", "after"), ("fused", "lexical"))
"""Searches that are compared: the first minus the second."""


def compare(
    rankings: Mapping[str, Mapping[str, Sequence[int]]],
    gold: Mapping[str, Collection[int]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Score searches and compare them.

    Args:
        rankings: search (`lexical`, `before`, `after`, `fused`) to question id to rows of chunks, the best first.
        gold: question id to the rows that hold its answer.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `scores`: search to metric to `value`, `low` and `high` (95 %); `differences`: `A - B` to metric to the same
        and a `verdict`, paired by question.

    Raises:
        DataError: no question.
    """
    scored = {name: scores.of_rankings(ranked, gold) for name, ranked in rankings.items()}
    return {
        "scores": {name: scores.intervals(of, resamples, seed) for name, of in scored.items()},
        "differences": {
            f"{one} - {other}": scores.differences(scored[one], scored[other], resamples, seed)
            for one, other in PAIRS
            if one in scored and other in scored
        },
    }
