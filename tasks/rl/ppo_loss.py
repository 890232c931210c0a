"""The equations of PPO for language models, as functions of tensors. The trainer is in `tasks/rl/ppo.py`.

Tensors of tokens are `(B, C)`, answers by tokens, padded at the end; `mask` is 1 for a token and 0 for padding.
"""

import torch
from torch import Tensor


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Compute r_t = -kl_coef·kl_t, plus the score at the last token, which is the EOS where there is one.

    Summed over an answer this is the reward of Ziegler et al. (arXiv:1909.08593, eq. 2).

    Args:
        scores: `(B,)`, of whole answers.
        kl: `(B, C)`, log π(token) - log π_ref(token) in nats.
        mask: `(B, C)`.
        kl_coef: reward per nat.

    Returns:
        `(B, C)`, 0 on padding.
    """
    last = mask.sum(1, keepdim=True) - 1
    return (-kl_coef * kl * mask).scatter_add(1, last, scores[:, None])


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Compute A_t = δ_t + γλ·A_(t+1) with δ_t = r_t + γ·V_(t+1) - V_t.

    That is arXiv:1506.02438, eq. 16, and arXiv:1707.06347, eq. 11-12.

    Args:
        rewards: `(B, C)`, 0 on padding.
        values: `(B, C)`, V before each token is chosen, 0 on padding: nothing is to be had after the last token.
        gamma: discount per token, 0 to 1.
        lam: λ, 0 to 1: 0 trusts V, 1 the sampled rewards.

    Returns:
        `(B, C)`, 0 on padding.
    """
    advantages = torch.zeros_like(rewards)
    following = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.size(1))):
        following = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * following
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages


def surrogate(logps: Tensor, old_logps: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Compute -min(ρA, clip(ρ, 1 - low, 1 + high)·A), ρ = π/π_old, of each token (arXiv:1707.06347, eq. 7, a loss)."""
    ratio = torch.exp(logps - old_logps)
    return -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Compute ½·max((V - R)², (V_old + clip(V - V_old, ±clip) - R)²), of each token (as arXiv:2403.17031)."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.max((values - returns).square(), (clipped - returns).square())


def sums(x: Tensor, mask: Tensor) -> Tensor:
    """Sum and sum of squares over the tokens, and their number, `(3,)`: what processes add up."""
    x = x.double() * mask
    return torch.stack([x.sum(), x.square().sum(), mask.sum().double()])


def moments(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and variance over the tokens that `sums` was made of."""
    total, squares, count = sums
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp(min=0).float()


def whiten(x: Tensor, mask: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Take the given mean and variance out of `x`; 0 on padding."""
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def adapted(kl_coef: float, kl: float, target: float, episodes: int, horizon: float) -> float:
    """Compute the next KL coefficient: up to 20 % of `episodes`/`horizon` nearer (arXiv:1909.08593, section 2.2).

    Args:
        kl_coef: the present one.
        kl: nats per answer seen in a rollout of `episodes` answers.
        target: nats per answer wanted.
        episodes: answers in the rollout.
        horizon: answers in which a persistent error of 20 % changes the coefficient by a factor of about e^0.2.
    """
    error = max(-0.2, min(0.2, kl / target - 1))
    return kl_coef * (1 + error * episodes / horizon)
