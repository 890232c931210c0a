"""Muon: it orthogonalises, it follows the published rule, it refuses what it is not for."""

import pytest
import torch

from tasks.base_models.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    core = u.mT @ result @ vh.mT
    assert (core - torch.diag(core.diagonal())).abs().max() < 1e-3


def test_it_agrees_with_torch_up_to_bfloat16() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(24, 8)) for _ in range(2))
    mine = Muon([ours], lr=0.1, weight_decay=0.1)
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1)
    for _ in range(5):
        ours.grad = torch.randn(24, 8)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="Muon updates matrices only"):
        Muon([torch.nn.Parameter(torch.ones(3))], lr=0.1, weight_decay=0.0)
