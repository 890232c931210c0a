"""The measures of one model against another: the definitions, worked out on paper."""

from collections.abc import Iterator

import numpy as np
import pytest

from tasks.export.divergence import Divergence, common_prefix, log_softmax

P = np.log([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
Q = np.log([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]])
KL = 0.5 * np.log(2) + 0.25 * np.log(0.5)


def test_two_positions_over_three_tokens() -> None:
    divergence = Divergence()
    divergence.add(P, Q, [0, 2], [0, 1])
    measures = divergence.measures()
    assert measures.kl_per_token == pytest.approx(KL / 2)
    assert measures.max_logprob_difference == pytest.approx(np.log(2))
    assert measures.argmax_agreement == 0.5
    assert measures.greedy_agreement == 0.5
    assert measures.tokens == 2


def test_means_are_over_tokens_and_not_over_answers() -> None:
    divergence = Divergence()
    divergence.add(P[:1], Q[:1], [0], [1])
    divergence.add(P[[1, 1, 1]], Q[[1, 1, 1]], [2, 2, 2], [2, 2, 2])
    measures = divergence.measures()
    assert measures.kl_per_token == pytest.approx(KL / 4)
    assert measures.argmax_agreement == measures.greedy_agreement == 0.75


def test_a_free_answer_is_read_to_the_first_token_that_differs() -> None:
    drawn = []

    def free() -> Iterator[int]:
        for token in (2, 0, 2):
            drawn.append(token)
            yield token

    divergence = Divergence()
    divergence.add(P[[1, 1, 1]], Q[[1, 1, 1]], [2, 2, 2], free())
    assert drawn == [2, 0]
    assert divergence.measures().greedy_agreement == pytest.approx(1 / 3), "what agrees again later does not count"


def test_agreement_ends_at_the_first_difference() -> None:
    assert common_prefix([1, 2, 3, 4], [1, 2, 9, 4]) == 2
    assert common_prefix([1, 2, 3], [1, 2, 3]) == common_prefix([1, 2, 3], [1, 2, 3, 4]) == 3
    assert common_prefix([5], []) == 0


def test_log_softmax_takes_logits_that_float32_could_not_exponentiate() -> None:
    logits = np.array([[1000.0, 1000.0 + np.log(3.0)]], dtype=np.float32)
    assert log_softmax(logits) == pytest.approx(np.log([[0.25, 0.75]]), rel=1e-4)
    assert logits[0, 0] == 1000, "the logits themselves stay"
