"""Random decoders of a few thousand weights, what `generate` writes with them, and rollouts for them."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from tasks.sampling import generate

SIZES: dict[str, Any] = {
    "vocab_size": 12,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen3": SIZES,
    "gpt2": {"vocab_size": 12, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": None},
    "mistral": SIZES | {"sliding_window": 6},
    "gemma2": SIZES | {"sliding_window": 6, "query_pre_attn_scalar": 8, "tie_word_embeddings": False},
    "qwen3_moe": SIZES | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
OTHERS: dict[str, dict[str, Any]] = {
    "mamba": {"vocab_size": 12, "hidden_size": 32, "num_hidden_layers": 2},
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "bloom": {"vocab_size": 12, "hidden_size": 32, "n_layer": 2, "n_head": 4},
}


def made(kind: str, sizes: dict[str, Any], **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return apart(AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes | changes)))


def apart(model: PreTrainedModel) -> PreTrainedModel:
    """The model with larger weights than fresh ones, whose answers are all alike."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4)
    return model.eval()


def settings(**changes: Any) -> GenerationConfig:
    sampled = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(**{"max_new_tokens": 16, "pad_token_id": 0, "eos_token_id": 11} | sampled | changes)


def generated(model: Any, prompts: list[list[int]], config: GenerationConfig) -> list[list[int]]:
    """What transformers writes, each row up to and with its first end."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    rows = model.generate(ids, attention_mask=seen, generation_config=config)[:, width:].tolist()
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    lengths = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def drawn(model: Any, prompts: list[list[int]], config: GenerationConfig, seed: int = 0) -> generate.DrawnAnswers:
    how = generate.plan(model, config)
    assert how is not None
    torch.manual_seed(seed)
    return generate.draw(model, prompts, how)


def rollout(prompts: list[int], answers: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of prompts and answers of these lengths, padded at the left and at the right, as TRL has them."""
    torch.manual_seed(seed)
    before, after = max(prompts), max(answers)
    seen = torch.tensor(
        [[0] * (before - p) + [1] * (p + a) + [0] * (after - a) for p, a in zip(prompts, answers, strict=True)]
    )
    return torch.randint(1, 12, seen.shape) * seen, seen
