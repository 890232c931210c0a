"""PPO's equations against plain loops and gradients by hand."""

import math

import pytest
import torch

from tasks.rl import ppo_loss as equations


def ragged(lengths: list[int], width: int) -> torch.Tensor:
    return (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
def test_gae_is_the_discounted_sum_of_temporal_differences(gamma: float, lam: float) -> None:
    torch.manual_seed(0)
    lengths = [5, 1, 3]
    mask = ragged(lengths, 5)
    rewards, values = torch.randn(3, 5) * mask, torch.randn(3, 5) * mask
    found = equations.gae(rewards, values, gamma, lam)
    for i, length in enumerate(lengths):
        for t in range(length):
            total = 0.0
            for later in range(t, length):
                after = values[i, later + 1].item() if later + 1 < length else 0.0
                delta = rewards[i, later].item() + gamma * after - values[i, later].item()
                total += (gamma * lam) ** (later - t) * delta
            assert found[i, t].item() == pytest.approx(total, abs=1e-5)
        assert found[i, length:].eq(0).all()


def test_gae_with_lambda_1_is_the_return_less_the_value() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 3.0]])
    torch.testing.assert_close(equations.gae(rewards, values, 1.0, 1.0), torch.tensor([[1.5, 1.0, -1.0]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped"),
    [(1.0, 2.0, False), (1.1, -1.0, False), (1.5, 2.0, True), (0.5, -2.0, True), (0.5, 2.0, False), (1.5, -2.0, False)],
)
def test_the_surrogates_gradient_is_minus_ratio_times_advantage_or_nothing(
    ratio: float, advantage: float, clipped: bool
) -> None:
    logps = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    loss = equations.surrogate(logps, torch.tensor([[-1.0]]), torch.tensor([[advantage]]), 0.2, 0.2)
    loss.sum().backward()
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(0.0 if clipped else -ratio * advantage, rel=1e-5)
    limit = max(0.8, min(1.2, ratio))
    assert loss.item() == pytest.approx(-min(ratio * advantage, limit * advantage), rel=1e-5)


def test_a_value_that_moved_past_the_clip_towards_its_return_gets_no_gradient() -> None:
    values = torch.tensor([0.1, 0.5, -0.5], requires_grad=True)
    loss = equations.value_loss(values, torch.zeros(3), torch.ones(3), 0.2)
    torch.testing.assert_close(loss, torch.tensor([0.5 * 0.9**2, 0.5 * 0.8**2, 0.5 * 1.5**2]))
    loss.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([-0.9, 0.0, -1.5]))


def test_the_last_token_gets_the_score_and_padding_nothing() -> None:
    mask = ragged([3, 1, 4], 4)
    kl = torch.full((3, 4), 0.5)
    found = equations.token_rewards(torch.tensor([1.0, 2.0, -1.0]), kl, mask, 0.1)
    expected = torch.tensor([[-0.05, -0.05, 0.95, 0.0], [1.95, 0.0, 0.0, 0.0], [-0.05, -0.05, -0.05, -1.05]])
    torch.testing.assert_close(found, expected)


def test_whitened_advantages_have_mean_0_and_variance_1_over_the_tokens() -> None:
    torch.manual_seed(0)
    mask = ragged([6, 2, 4], 6)
    x = (3 + 5 * torch.randn(3, 6)) * mask
    marked = x[mask.bool()]
    found = equations.whiten(x, mask, marked.mean(), marked.var(correction=0))
    assert found[mask.bool()].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[mask.bool()].var(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert found[~mask.bool()].eq(0).all()


def test_the_kl_controller_moves_in_proportion_and_at_most_a_fifth() -> None:
    assert equations.adapted(0.1, 6.0, 6.0, 64, 1000) == pytest.approx(0.1)
    assert equations.adapted(0.1, 6.6, 6.0, 100, 1000) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert equations.adapted(0.1, 60.0, 6.0, 100, 1000) == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    assert equations.adapted(0.1, -5.0, 6.0, 100, 1000) == pytest.approx(0.1 * (1 - 0.2 * 0.1))
