"""Fusion: one ranking from a lexical and a dense one, by weights or by reciprocal ranks, chosen on held-out questions.

Weights add the scores of both legs, each brought to 0 to 1 among the chunks that its leg found, a chunk that it did not
find at 0 (a convex combination, Bruch et al., arXiv:2210.11934). Reciprocal ranks add 1 / (c + rank) (Cormack et al.,
2009). Where one leg is far better than the other, ranks alone make the result worse than that leg; the weights that are
tried therefore hold 0 and 1, each of which is one leg by itself, and the best on the held-out questions is taken.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from tasks.retrieval import scores
from tasks.retrieval.scores import DEPTH, Metric
from tasks.stage.config import Strict

if TYPE_CHECKING:
    from numpy import float64, int64
    from numpy.typing import NDArray

LEGS = ("lexical", "dense")


class FusionSettings(Strict):
    """What is tried on the held-out questions."""

    depth: int = Field(ge=DEPTH)
    """Chunks of each leg that are fused."""
    lexical_weights: list[float]
    """Weights of the lexical leg that are tried, 0 to 1, with 0 and 1 among them; the dense leg has the rest."""
    rrf_c: int | None = Field(gt=0)
    """Constant c of the reciprocal ranks that are tried besides; null tries weights alone."""
    metric: Metric
    """Mean by which the best is chosen; of equal ones MRR@10 decides, and then how near it is to one leg alone."""

    @field_validator("lexical_weights")
    @classmethod
    def _has_both_legs(cls, weights: list[float]) -> list[float]:
        """Refuse weights that could leave the better leg out of the choice."""
        if any(not 0 <= weight <= 1 for weight in weights) or not {0.0, 1.0} <= set(weights):
            raise ValueError("must be from 0 to 1, with 0 and 1 among them: either is one leg by itself")
        return weights


class Fusion(Strict):
    """How two rankings become one."""

    method: Literal["weights", "rrf"]
    """`weights` adds scores, `rrf` reciprocal ranks."""
    depth: int
    """Chunks of each leg that are fused."""
    lexical: float
    """Weight of the lexical leg; the dense leg has 1 minus it. Of `rrf`, 0.5."""
    c: int | None
    """Constant of the reciprocal ranks; null for `weights`."""


class Leg(NamedTuple):
    """What one leg found for one question."""

    scores: Sequence[float]
    """Descending."""
    rows: Sequence[int]
    """Rows of chunks; -1 from where on nothing was found."""


class Fused(NamedTuple):
    """One chunk of a fused ranking."""

    row: int
    """Row of the chunk."""
    score: float
    """Sum of the parts."""
    parts: dict[str, float]
    """Leg to what it adds to the score."""
    ranks: dict[str, int | None]
    """Leg to the chunk's rank in it, from 1; None where it was not among the first `depth`."""


def fuse(legs: Mapping[str, Leg], fusion: Fusion, k: int) -> list[Fused]:
    """Fuse what the legs found for one question.

    Args:
        legs: `lexical` and `dense`, each cut to `fusion.depth`.
        fusion: how.
        k: most chunks of the result.

    Returns:
        The best chunks first. Of equal ones the better rank in a leg that counts comes first, then the lower row.
    """
    found = _candidates(legs, fusion.depth, fusion.c)
    best = found.order(fusion.lexical)[:k]
    parts = found.parts(fusion.lexical)[:, best].T.tolist()
    rows, ranks = found.rows[best].tolist(), found.ranks[:, best].T.tolist()
    return [
        Fused(
            row,
            sum(of),
            dict(zip(LEGS, of, strict=True)),
            {name: None if math.isinf(rank) else int(rank) for name, rank in zip(LEGS, at, strict=True)},
        )
        for row, of, at in zip(rows, parts, ranks, strict=True)
    ]


class _Candidates(NamedTuple):
    """What both legs found for one question, in arrays; legs are in the order of `LEGS`."""

    rows: "NDArray[int64]"
    """Rows of the chunks, of shape [chunks]."""
    values: "NDArray[float64]"
    """What each place of a leg is worth before it is weighed, of shape [legs, chunks]; 0 where it is not found."""
    ranks: "NDArray[float64]"
    """Rank in each leg, from 1, of the same shape; infinity where it is not found."""

    def parts(self, lexical: float) -> "NDArray[float64]":
        """Return what each leg adds to the scores at the lexical leg's weight, of shape [legs, chunks]."""
        import numpy as np

        return np.array([[lexical], [1 - lexical]]) * self.values

    def order(self, lexical: float) -> "NDArray[int64]":
        """Return the places in `rows` of a ranking at the lexical leg's weight, the best first."""
        import numpy as np

        counted = np.array([lexical, 1 - lexical]) > 0
        return np.lexsort((self.rows, self.ranks[counted].min(axis=0), -self.parts(lexical).sum(axis=0)))


def _candidates(legs: Mapping[str, Leg], depth: int, c: int | None) -> _Candidates:
    """Line up the first `depth` chunks of both legs, worth 1 / (c + rank), or their scores where c is null."""
    import numpy as np

    places: dict[int, int] = {}
    found: list[tuple[list[int], list[float]]] = []
    for name in LEGS:
        kept = [(row, score) for row, score in zip(legs[name].rows, legs[name].scores, strict=True) if row >= 0][:depth]
        at = [places.setdefault(row, len(places)) for row, _ in kept]
        found.append((at, _values([score for _, score in kept], c)))
    values, ranks = np.zeros((len(LEGS), len(places))), np.full((len(LEGS), len(places)), np.inf)
    for leg, (at, worth) in enumerate(found):
        values[leg, at], ranks[leg, at] = worth, np.arange(1, len(at) + 1)
    return _Candidates(np.array(list(places), np.int64), values, ranks)


def _values(found: Sequence[float], c: int | None) -> list[float]:
    """Return what each place of a leg is worth before it is weighed."""
    if c is not None:
        return [1 / (c + rank) for rank in range(1, len(found) + 1)]
    if not found:
        return []
    high, low = max(found), min(found)
    return [(score - low) / (high - low) if high > low else 1.0 for score in found]


def choose(
    settings: FusionSettings, legs: Mapping[str, Mapping[str, Leg]], gold: Mapping[str, Collection[int]]
) -> tuple[Fusion, list[dict[str, Any]]]:
    """Choose the fusion that is best on held-out questions.

    Args:
        settings: what is tried.
        legs: question id to its legs.
        gold: question id to its gold chunks' rows, at least one.

    Returns:
        The choice, and each one tried with its means, in the order of `settings`, reciprocal ranks last.
    """
    tried = [
        Fusion(method="weights", depth=settings.depth, lexical=weight, c=None)
        for weight in dict.fromkeys(settings.lexical_weights)
    ]
    if settings.rrf_c is not None:
        tried.append(Fusion(method="rrf", depth=settings.depth, lexical=0.5, c=settings.rrf_c))
    lined_up = {
        c: {name: _candidates(of, settings.depth, c) for name, of in legs.items()} for c in {one.c for one in tried}
    }
    means = []
    for one in tried:
        ranked = {name: of.rows[of.order(one.lexical)[:DEPTH]].tolist() for name, of in lined_up[one.c].items()}
        means.append(scores.means(scores.of_rankings(ranked, gold)))

    def quality(at: int) -> tuple[float, ...]:
        one = tried[at]
        return means[at][settings.metric], means[at]["mrr@10"], one.c is None, abs(one.lexical - 0.5), -at

    table = [{**one.model_dump(mode="json"), **of} for one, of in zip(tried, means, strict=True)]
    return tried[max(range(len(tried)), key=quality)], table


def rows(fused: Sequence[Fused]) -> list[int]:
    """List the rows of a fused ranking."""
    return [one.row for one in fused]
