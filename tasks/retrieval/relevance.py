"""How probable it is that a passage answers a question: a logistic regression over its cosine and its BM25.

The scores of a fused ranking are brought to 0 to 1 within one question, so the best hit of a question that no passage
answers looks as good as any other. The raw scores of both legs do not depend on the other hits. Their weights are
fitted on held-out questions, with Platt's targets (Platt, 1999), which stay finite where right hits and others fall
apart. A reader can then be shown what is relevant alone, and nothing where nothing is, as corrective retrieval does
with a model of its own (Yan et al., arXiv:2401.15884).
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.retrieval.fusion import Fusion, Leg, fuse
from tasks.retrieval.scores import DEPTH
from tasks.stage.config import Strict

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

RIDGE = 1e-3
"""Penalty of the squared weights of the standardised scores, added to the mean log loss."""
STEPS = 100
"""Most steps of Newton's method, which needs about ten."""


class Relevance(Strict):
    """A fitted regression, as `index.json` holds it."""

    intercept: float
    """Log odds at scores of 0."""
    cosine: float
    """Log odds for each 1 of the cosine."""
    bm25: float
    """Log odds for each 1 of BM25."""
    passages: int
    """Passages that it was fitted on."""
    right: int
    """How many of them hold the answer."""
    auc: float
    """Share of the pairs of a right and another one of them in which the right one is more probable; ties are half."""

    def of(self, cosine: float, bm25: float) -> float:
        """Return the probability, 0 to 1, that a passage with these scores answers the question."""
        odds = self.intercept + self.cosine * cosine + self.bm25 * bm25
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


def raw(legs: Mapping[str, Leg], row: int) -> tuple[float, float]:
    """Return the cosine and the BM25 of a chunk.

    A leg that did not find it gives the lowest of the scores that it found, which is the most that it may have; a
    lexical leg that found fewer than it was asked for gives 0, since the chunk shares no word with the question.

    Args:
        legs: `lexical` and `dense` of one question.
        row: of the chunk.
    """
    dense, lexical = (
        {at: score for at, score in zip(legs[name].rows, legs[name].scores, strict=True) if at >= 0}
        for name in ("dense", "lexical")
    )
    unfound = 0.0 if len(lexical) < len(legs["lexical"].rows) else min(lexical.values(), default=0.0)
    return dense.get(row, min(dense.values(), default=0.0)), lexical.get(row, unfound)


def fit(legs: Mapping[str, Mapping[str, Leg]], gold: Mapping[str, Collection[int]], fusion: Fusion) -> Relevance | None:
    """Fit the regression on the first hits of each question.

    Args:
        legs: question id to its legs, each cut to `fusion.depth`.
        gold: question id to its gold chunks' rows, at least one.
        fusion: how both rankings become one; the first `DEPTH` of it are taken.

    Returns:
        None where no hit is right, or all are: there is nothing to tell apart.
    """
    import numpy as np

    scores: list[tuple[float, float]] = []
    holds: list[bool] = []
    for name, of in legs.items():
        for one in fuse(of, fusion, DEPTH):
            scores.append(raw(of, one.row))
            holds.append(one.row in gold[name])
    right = sum(holds)
    if right in (0, len(holds)):
        return None
    values, is_right = np.array(scores), np.array(holds)
    middle, spread = values.mean(axis=0), values.std(axis=0)
    spread[spread == 0] = 1.0
    targets = np.where(is_right, (right + 1) / (right + 2), 1 / (len(holds) - right + 2))
    weights = _newton(np.column_stack([np.ones(len(holds)), (values - middle) / spread]), targets)
    slopes = weights[1:] / spread
    intercept = weights[0] - float(slopes @ middle)
    return Relevance(
        intercept=round(float(intercept), 6),
        cosine=round(float(slopes[0]), 6),
        bm25=round(float(slopes[1]), 6),
        passages=len(holds),
        right=right,
        auc=round(auc(values @ slopes, is_right), 6),
    )


def _newton(inputs: "NDArray[float64]", targets: "NDArray[float64]") -> "NDArray[float64]":
    """Minimise the mean log loss of [rows, columns] against targets of [rows], 0 to 1; the first column is free."""
    import numpy as np

    rows, columns = inputs.shape
    penalty = np.diag([0.0, *[RIDGE] * (columns - 1)])
    weights = np.zeros(columns)
    for _ in range(STEPS):
        said = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (said - targets) / rows + penalty @ weights
        curve = (inputs * (said * (1 - said))[:, None]).T @ inputs / rows + penalty
        step = np.linalg.solve(curve + 1e-9 * np.eye(columns), slope)
        weights = weights - step / max(1.0, float(np.abs(step).max()) / 2)
        if float(np.abs(step).max()) < 1e-10:
            break
    return weights


def auc(said: "NDArray[float64]", holds: Any) -> float:
    """Return the area under the ROC curve.

    Args:
        said: what is higher for the right ones, [rows].
        holds: which are right, booleans of [rows], with both kinds among them.
    """
    import numpy as np

    ordered = np.sort(said[~holds])
    below = np.searchsorted(ordered, said[holds], side="left")
    equal = np.searchsorted(ordered, said[holds], side="right") - below
    return float((below + equal / 2).mean() / len(ordered))


def relevant(hits: Iterable[Any], least: float | None) -> list[Any]:
    """Keep the hits that are relevant enough to be shown, in their order.

    Args:
        hits: of one question, each with its `relevance`, 0 to 1 or None.
        least: probability below which a hit is left out; None keeps all.
    """
    return [hit for hit in hits if least is None or hit.relevance is None or hit.relevance >= least]


def screened(found: Sequence[Sequence[Any]], held: Sequence[Collection[str]], least: float) -> dict[str, Any]:
    """Count what a screen keeps.

    Args:
        found: hits of each question that a prompt has room for.
        held: ids of the chunks that answer each.
        least: as for `relevant`.

    Returns:
        `least`; `right` and `others`, hits that answer and that do not; `right_kept` and `others_kept`, the shares of
        them that are shown, None where there are none; and `nothing_shown`, the share of the questions without a
        passage.
    """
    kept = [relevant(hits, least) for hits in found]

    def share(is_right: bool) -> tuple[int, float | None]:
        of, among = (
            sum((hit.chunk.id in ids) is is_right for hits, ids in zip(lists, held, strict=True) for hit in hits)
            for lists in (found, kept)
        )
        return of, round(among / of, 6) if of else None

    (right, right_kept), (others, others_kept) = share(True), share(False)
    return {
        "least": least,
        "right": right,
        "right_kept": right_kept,
        "others": others,
        "others_kept": others_kept,
        "nothing_shown": round(sum(not hits for hits in kept) / len(kept), 6) if kept else None,
    }
