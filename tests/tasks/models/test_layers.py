"""Leaving decoder layers out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.models.layers import check_indices, depth, keep_layers
from tasks.stage.errors import ConfigError, ModelError


def deep() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=2, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip


def test_what_stays_computes_as_before_and_loads_again(chat_model: Path, tmp_path: Path) -> None:
    model, whole, ids = deep(), deep(), torch.tensor([[5, 6, 7, 8]])
    keep_layers(model, [0, 3])
    hidden = whole.model.embed_tokens(ids)
    positions = torch.arange(4)[None]
    mask = torch.full((4, 4), float("-inf")).triu(1)[None, None]
    for index in (0, 3):
        rotary = whole.model.rotary_emb(hidden, positions)
        hidden = whole.model.layers[index](hidden, attention_mask=mask, position_embeddings=rotary)
    expected = whole.lm_head(whole.model.norm(hidden))
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-4)
    save_model(model, load_tokenizer(chat_model), tmp_path)
    loaded = load_causal_lm(tmp_path).eval()
    assert loaded.config.num_hidden_layers == 2 == len(loaded.model.layers)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_the_cache_knows_the_new_numbers() -> None:
    model, ids = deep(), torch.tensor([[5, 6, 7, 8]])
    keep_layers(model, [1, 3])
    first = model(ids[:, :3], use_cache=True)
    assert len(first.past_key_values.layers) == 2
    then = model(ids[:, 3:], past_key_values=first.past_key_values)
    torch.testing.assert_close(then.logits[:, -1], model(ids).logits[:, -1], atol=1e-5, rtol=1e-4)


def test_kinds_of_layers_are_kept_with_them() -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, layer_types=kinds, use_sliding_window=True, sliding_window=4,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    keep_layers(model, [1, 2])
    assert model.config.layer_types == kinds[1:]
    assert model(torch.tensor([[1, 2, 3, 4, 5, 6]])).logits.isfinite().all()


@pytest.mark.parametrize(
    ("indices", "said"),
    [
        ([], r"no layer would be kept; name at least one of 0 to 3"),
        ([0, 4], r"there is no layer 4 to keep; the model has 0 to 3"),
        ([-1], r"there is no layer -1"),
        ([1, 1], r"layer 1 comes after layer 1; name each kept layer once, rising"),
        ([2, 0], r"layer 0 comes after layer 2"),
    ],
)
def test_layers_that_are_not_there_are_refused(indices: list[int], said: str) -> None:
    model = deep()
    with pytest.raises(ModelError, match=said):
        keep_layers(model, indices)
    assert len(model.model.layers) == 4, "and nothing was cut"


def test_a_folder_says_how_deep_it_is_without_its_weights(tmp_path: Path) -> None:
    """Also one whose text model is a part of it; where it does not say, `keep_layers` finds out later."""
    for config, found in (({"num_hidden_layers": 4}, 4), ({"text_config": {"num_hidden_layers": 3}}, 3), ({}, None)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert depth(tmp_path) == found
        check_indices([0, 2], tmp_path, "p.yaml: layers")
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 2}))
    with pytest.raises(ConfigError, match=r"^p\.yaml: layers: there is no layer 2 to keep; the model has 0 to 1$"):
        check_indices([0, 2], tmp_path, "p.yaml: layers")


def test_a_model_of_another_build_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2))
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel: its decoder is no list `layers`"):
        keep_layers(model, [0])
