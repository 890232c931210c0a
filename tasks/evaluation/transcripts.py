"""Word error rates of whole sets: the errors of all utterances by their words, with an interval, and by voice.

The mean over utterances, which every metric of this pipeline is, weighs an utterance of one word like one of ten; what
is quoted for a recogniser is the pooled rate. Where the voice of each row is known, the interval of the pooled rate
resamples voices and then the utterances of each: another set would have other voices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.evaluation.pictures import WHOLE, Resampling
from tasks.grading.speech import errors

METRIC = "wer"
"""Metric by which a task of transcripts is known."""


def pooled(
    rows: Sequence[Mapping[str, Any]], answered: Sequence[Mapping[str, Any]], column: str | None, settings: Resampling
) -> dict[str, dict[str, float]]:
    """Return the word error rate of all rows and of each voice.

    Args:
        rows: with `answer`, the reference.
        answered: with `response`, in the order of the rows.
        column: of the voice in each row; None where it is not known.
        settings: of the intervals.

    Returns:
        Group (`all`, `voice=f5`) to `value`, `low`, `high`, `errors` and `words`.
    """
    counts = np.array([errors(row["answer"], said["response"]) for row, said in zip(rows, answered, strict=True)])
    voices = [str(row[column]) if column else str(i) for i, row in enumerate(rows)]
    members = {voice: [i for i, other in enumerate(voices) if other == voice] for voice in sorted(set(voices))}
    rates = {WHOLE: _rate(counts, list(members.values()), settings)}
    if column:
        for voice, numbers in members.items():
            rates[f"{column}={voice}"] = _rate(counts[numbers], [[i] for i in range(len(numbers))], settings)
    return rates


def _rate(counts: Any, clusters: Sequence[Sequence[int]], settings: Resampling) -> dict[str, float]:
    """Return the rate of `counts`, `[rows, 2]` of errors and words, whose interval resamples clusters of rows."""
    rng = np.random.default_rng(settings.seed)
    drawn = []
    for _ in range(settings.resamples):
        chosen = [clusters[i] for i in rng.integers(0, len(clusters), len(clusters))]
        numbers = np.concatenate([np.asarray(c)[rng.integers(0, len(c), len(c))] for c in chosen])
        wrong, of = counts[numbers].sum(axis=0)
        drawn.append(wrong / of)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    wrong, of = counts.sum(axis=0)
    return {
        "value": round(float(wrong / of), 6), "low": round(float(low), 6), "high": round(float(high), 6),
        "errors": int(wrong), "words": int(of),
    }  # fmt: skip
