"""GGUF files: the tokenizer of the file, not the one that the architecture suggests."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from tasks.base_models.gguf import load_gguf
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage.errors import ModelError

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def as_gguf_name(name: str) -> str:
    """`model.layers.0.self_attn.q_proj.weight` is `blk.0.attn_q.weight`."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, *parts, _ = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(parts)]}.weight"


def permuted(name: str, weight: Any, heads: int) -> Any:
    """GGUF interleaves the two halves of each head's rotary dimensions in q and k."""
    if "q_proj" not in name and "k_proj" not in name:
        return weight
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write(path: Path, folder: Path, pre: str) -> None:
    """Write the chat model as a 32-bit GGUF, as llama.cpp's converter lays it out."""
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    config, vocabulary = model.config, tokenizer.get_vocab()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_token_list(tokens + [f"<unused{i}>" for i in range(config.vocab_size - len(tokens))])
    special = set(tokenizer.all_special_tokens) | {"<|im_start|>", "<|endoftext|>"}
    writer.add_token_types([3 if token in special else 1 for token in tokens] + [5] * (config.vocab_size - len(tokens)))

    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(vocabulary["<|im_start|>"])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_unk_token_id(vocabulary["<|endoftext|>"])
    writer.add_pad_token_id(vocabulary["<|pad|>"])
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(as_gguf_name(name), permuted(name, weight.numpy(), config.num_attention_heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_weights_and_tokens_come_back(chat_model: Path, tmp_path: Path) -> None:
    import torch

    write(tmp_path / "m.gguf", chat_model, "smollm")
    model, tokenizer = load_gguf(tmp_path / "m.gguf", "float32")
    original = load_tokenizer(chat_model)
    for text in ("What is 12 + 345? ", "  Happy\n\tto help!", "héllo <|im_end|>\n"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == original(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")
    assert tokenizer.clean_up_tokenization_spaces is False
    assert model.config.eos_token_id == tokenizer.eos_token_id
    ids = torch.tensor([original("What is 12 + 34?")["input_ids"]])
    torch.testing.assert_close(model(ids).logits, load_causal_lm(chat_model)(ids).logits, atol=1e-4, rtol=1e-4)


def test_an_unknown_tokenizer_is_refused(chat_model: Path, tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", chat_model, "qwen2")
    with pytest.raises(ModelError, match=r"tokenizer 'gpt2/qwen2' is not known here .* use the model's safetensors"):
        load_gguf(tmp_path / "m.gguf", "float32")
