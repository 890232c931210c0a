"""How well chunks are found: recall@k, nDCG@10 and MRR@10 of rankings, with intervals.

A question may have several gold chunks: overlapping chunks that all hold its sentence, or copies of one. One of them is
enough to answer it, so recall@k is the share of questions with at least one gold chunk among the first k, which is
called top-k accuracy elsewhere (Karpukhin et al., arXiv:2004.04906). nDCG@10 (Järvelin and Kekäläinen, 2002) takes
every gold chunk as equally relevant, and MRR@10 is the mean of 1 / rank of the first one, 0 beyond the tenth place.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from tasks.grading.bootstrap import Interval, mean_interval, paired_difference, verdict

Metric = Literal["ndcg@10", "mrr@10", "recall@1", "recall@3", "recall@5", "recall@10"]
METRICS: tuple[Metric, ...] = ("ndcg@10", "mrr@10", "recall@1", "recall@3", "recall@5", "recall@10")
DEPTH = 10
"""Places of a ranking that are looked at."""
CONFIDENCE = 0.95
"""Probability that an interval covers what it is of."""

Scores = dict[Metric, dict[str, float]]
"""Metric to question id to score, 0 to 1."""


def of_ranking(ranked: Sequence[int], gold: Collection[int]) -> dict[Metric, float]:
    """Score the ranking of one question.

    Args:
        ranked: rows of chunks, the best first; -1 where nothing was found.
        gold: rows of the chunks that hold the answer, at least one.

    Returns:
        Each metric's value, 0 to 1.

    Raises:
        ValueError: no chunk is gold.
    """
    if not gold:
        raise ValueError("a question without a gold chunk has no score; leave it out, and count it")
    places = [place for place, row in enumerate(ranked[:DEPTH], 1) if row in gold]
    first = places[0] if places else math.inf
    gain = sum(1 / math.log2(place + 1) for place in places)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(len(gold), DEPTH) + 1))
    return {
        "ndcg@10": gain / ideal,
        "mrr@10": 1 / first,
        "recall@1": float(first <= 1),
        "recall@3": float(first <= 3),
        "recall@5": float(first <= 5),
        "recall@10": float(first <= 10),
    }


def of_rankings(rankings: Mapping[str, Sequence[int]], gold: Mapping[str, Collection[int]]) -> Scores:
    """Score the rankings of several questions, by question id. Raises ValueError as `of_ranking`."""
    each = {name: of_ranking(ranked, gold[name]) for name, ranked in rankings.items()}
    return {metric: {name: values[metric] for name, values in each.items()} for metric in METRICS}


def means(scores: Scores) -> dict[str, float]:
    """Return each metric's mean over the questions, of which there is at least one."""
    return {metric: round(sum(of.values()) / len(of), 6) for metric, of in scores.items()}


def intervals(scores: Scores, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Return each metric's mean with its 95 % bootstrap interval. Raises DataError without questions."""
    return {
        metric: _rounded(mean_interval(list(of.values()), resamples=resamples, confidence=CONFIDENCE, seed=seed))
        for metric, of in scores.items()
    }


def differences(scores: Scores, other: Scores, resamples: int, seed: int) -> dict[str, dict[str, float | str]]:
    """Compare two rankings of the same questions: mean of `scores - other` with its paired 95 % interval.

    Raises:
        DataError: they are not of the same questions.
    """
    found: dict[str, dict[str, float | str]] = {}
    for metric, of in scores.items():
        difference = paired_difference(of, other[metric], resamples=resamples, confidence=CONFIDENCE, seed=seed)
        found[metric] = {**_rounded(difference), "verdict": verdict(difference, higher_is_better=True)}
    return found


def _rounded(interval: Interval) -> dict[str, float]:
    return {"value": round(interval.value, 6), "low": round(interval.low, 6), "high": round(interval.high, 6)}
