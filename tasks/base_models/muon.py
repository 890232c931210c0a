"""Muon in the precision of the weights.

Momentum, orthogonalised by five Newton–Schulz steps (Jordan et al., 2024, "Muon: an optimizer for hidden layers in
neural networks", with its quintic coefficients). `torch.optim.Muon` does the same but iterates in bfloat16, for which
most CPUs have no fast matrix product: `bench/muon.py` prints what that costs.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)
STEPS = 5


class Muon(torch.optim.Optimizer):
    """Muon for 2-D parameters, Nesterov momentum, decoupled weight decay.

    Args:
        parameters: matrices, shape (rows, columns); nothing else.
        lr: learning rate; scaled by sqrt(max(1, rows / columns)) for each matrix.
        weight_decay: decay per step in units of the learning rate.
        momentum: share of the running mean of gradients that is kept each step.

    Raises:
        ValueError: a parameter is not a matrix.
    """

    def __init__(self, parameters: Iterable[Any], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            if any(p.ndim != 2 for p in group["params"]):
                raise ValueError("Muon updates matrices only; give other parameters to AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(state["momentum"], group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, p.shape[0] / p.shape[1])))


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Push the singular values of `matrix`, shape (rows, columns), towards 1 and keep its singular vectors."""
    a, b, c = COEFFICIENTS
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
