"""Two texts in one row say what each says alone, forwards and backwards; and what must not be folded is not."""

from typing import Any

import pytest
import torch

from tasks.sampling.packing import can_fold, fold
from tests.support.tiny_decoders import DECODERS, OTHERS, SIZES, made, rollout

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_each_token_is_once_in_the_fold_behind_its_own_text(count: int) -> None:
    ids, seen = rollout([9, 3, 5, 4, 4, 2, 7, 3][:count], [2, 9, 1, 1, 6, 3, 2, 8][:count])
    folded = fold(ids, seen)
    if count == 1:
        assert folded is None, "nothing to stand beside"
        return
    assert folded is not None
    assert folded.ids.shape[0] == (count + 1) // 2
    assert folded.ids.numel() <= 0.9 * ids.numel()
    taken = folded.places[seen.bool()]
    assert len(set(taken.tolist())) == int(seen.sum())
    assert torch.equal(folded.back(folded.ids)[seen.bool()], ids[seen.bool()])
    for row in range(count):
        own = folded.places[row, seen[row].bool()]
        assert own.tolist() == list(range(own[0], own[0] + len(own)))
        assert folded.positions.view(-1)[own].tolist() == list(range(len(own)))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_logits_and_gradients_are_those_of_each_text_alone(kind: str) -> None:
    model = made(kind, DECODERS[kind])
    assert can_fold(model)
    ids, seen = rollout([9, 3, 5, 4, 4], [2, 9, 1, 1, 6])
    folded = fold(ids, seen)
    assert folded is not None
    logits = model(input_ids=folded.ids, attention_mask=folded.mask, position_ids=folded.positions).logits
    found = torch.stack([folded.back(logits[..., i]) for i in range(12)], -1)
    weights = torch.randn_like(found)
    (found * weights)[seen.bool()].sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row in range(len(ids)):
        own = seen[row].bool()
        alone = model(input_ids=ids[row : row + 1, own]).logits[0]
        torch.testing.assert_close(found[row, own], alone, atol=1e-4, rtol=1e-4)
        (alone * weights[row, own]).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-3, rtol=1e-3)


def test_a_batch_without_padding_stays_as_it_is() -> None:
    assert fold(*rollout([6] * 8, [7] * 8)) is None
    assert fold(*rollout([6] * 8, [7] * 7 + [6])) is None
    assert fold(*rollout([6, 2] * 4, [7, 3] * 4)) is not None


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("mistral", DECODERS["mistral"]), ("gemma2", DECODERS["gemma2"]), *OTHERS.items()],
)
def test_windows_states_and_models_without_positions_are_not_folded(kind: str, sizes: dict[str, Any]) -> None:
    assert not can_fold(made(kind, sizes))


def test_only_the_kernel_that_takes_a_mask_as_it_is_will_do() -> None:
    model = made("llama", SIZES)
    model.set_attn_implementation("eager")
    assert not can_fold(model)
