"""The distance of one model's answers from another's: the measures that every form of a model is compared by.

The first model answers greedily; along that same answer (teacher forcing) both give a distribution of each next token:

    max_logprob_difference  largest |log p - log q| over all tokens of the vocabulary and all positions, in nats
    kl_per_token            mean over positions of KL(p || q), p the first model's, in nats
    argmax_agreement        share of positions at which both find the same token likeliest
    greedy_agreement        share of the first model's tokens that the second, answering freely, gives before it differs

Nothing is rounded here: an export, a quantised folder and a benchmark each write as many digits as they can tell.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measures:
    """The measures over every answer compared."""

    max_logprob_difference: float
    """Largest difference of two log-probabilities, in nats."""
    kl_per_token: float
    """Mean divergence, in nats."""
    argmax_agreement: float
    """Share of positions with the same likeliest token, 0 to 1."""
    greedy_agreement: float
    """Share of tokens before the first that differs, 0 to 1."""
    tokens: int
    """Number of positions compared."""


class Divergence:
    """Sums over the answers compared so far."""

    def __init__(self) -> None:
        self._max_difference = 0.0
        self._kl_sum = 0.0
        self._argmax_matches = 0
        self._greedy_matches = 0
        self._positions = 0

    def add(self, p: Any, q: Any, answer: Sequence[int], free: Iterable[int]) -> None:
        """Take one answer into the measures.

        Args:
            p: float64 array `[len(answer), vocabulary]`, the first model's log-probabilities along the answer.
            q: the second model's, of the same shape.
            answer: the first model's greedy answer, as token ids.
            free: the second model's own greedy answer to the same prompt. It is read no further than to the first
                token that differs.
        """
        import numpy as np

        difference = p - q
        self._max_difference = max(self._max_difference, float(np.abs(difference).max()))
        self._kl_sum += float((np.exp(p) * difference).sum())
        self._argmax_matches += int((p.argmax(-1) == q.argmax(-1)).sum())
        self._greedy_matches += common_prefix(answer, free)
        self._positions += len(answer)

    def measures(self) -> Measures:
        """Return the measures over all answers, at least one of which was added."""
        return Measures(
            max_logprob_difference=self._max_difference,
            kl_per_token=self._kl_sum / self._positions,
            argmax_agreement=self._argmax_matches / self._positions,
            greedy_agreement=self._greedy_matches / self._positions,
            tokens=self._positions,
        )


def log_softmax(logits: Any) -> Any:
    """Return the log-probabilities of logits `[positions, vocabulary]`, in float64."""
    import numpy as np

    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def common_prefix(expected: Sequence[int], tokens: Iterable[int]) -> int:
    """Count the tokens before the first that differs."""
    length = 0
    for expected_token, token in zip(expected, tokens, strict=False):
        if token != expected_token:
            break
        length += 1
    return length
