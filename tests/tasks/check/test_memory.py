"""Memory by arithmetic: against what torch really keeps for a backward pass, and what Adam really holds."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.check.memory import estimate

VOCABULARY, BATCH, LENGTH = 1000, 4, 128


def llama(hidden: int, intermediate: int, layers: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCABULARY,
        )
    )


def kept(model: LlamaForCausalLM) -> int:
    """Bytes that torch keeps for the backward pass, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    tensors: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        tensors[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is given twice
        return tensor

    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(input_ids=ids, labels=ids)
    return sum(t.untyped_storage().nbytes() for a, t in tensors.items() if a not in parameters)


@pytest.mark.parametrize("shape", [(128, 384, 4), (256, 1024, 8)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_torch_keeps(shape: tuple[int, int, int], checkpointing: bool) -> None:
    model = llama(*shape)
    if checkpointing:
        model.gradient_checkpointing_enable()
    said = estimate(0, 0, shape[2], shape[0], VOCABULARY, BATCH, LENGTH, "float32", checkpointing, 1).activations
    logits = BATCH * LENGTH * VOCABULARY * 8  # their gradient comes later, and torch keeps one of the two copies
    layer = 30 * BATCH * LENGTH * shape[0] * 4 if checkpointing else 0  # computed anew later
    measured = kept(model)
    assert 0.7 * (said - logits - layer) < measured < said


def test_the_optimizer_is_what_adam_holds() -> None:
    model = llama(64, 128, 2)
    count = sum(p.numel() for p in model.parameters())
    adam = torch.optim.AdamW(model.parameters())
    ids = torch.zeros(1, 4, dtype=torch.long)
    model(input_ids=ids, labels=ids).loss.backward()
    adam.step()
    moments = sum(t.nbytes for state in adam.state.values() for t in state.values() if t.dim())
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    said = estimate(count, count, 2, 64, VOCABULARY, 1, 4, "float32", False, 1)
    assert (said.optimizer, said.gradients) == (moments, gradients)
    assert said.weights == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize(
    ("changed", "part", "factor"),
    [({"copies": 2}, "weights", 2), ({"dtype": "bfloat16"}, "gradients", 0.5), ({"batch": 6}, "activations", 3)],
)
def test_each_part_grows_with_what_it_is_made_of(changed: dict[str, Any], part: str, factor: float) -> None:
    values: dict[str, Any] = {"parameters": 1000, "trained": 100, "layers": 2, "hidden": 8, "vocabulary": 50}
    values |= {"batch": 2, "length": 16, "dtype": "float32", "checkpointing": False, "copies": 1}
    before, after = estimate(**values), estimate(**values | changed)
    assert getattr(after, part) == factor * getattr(before, part)
    assert after.total == sum(after[:4])


def test_an_unknown_data_type_is_named() -> None:
    with pytest.raises(ValueError, match=r"dtype is 'fp16'; take one of .*float16"):
        estimate(1, 1, 1, 1, 1, 1, 1, "fp16", False, 1)
