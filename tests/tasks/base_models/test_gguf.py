"""GGUF files: the tokenizer of the file, not the one that the architecture suggests."""

import shutil
from pathlib import Path

import gguf
import pytest
import torch

from bench.forms.gguf import write_gguf
from tasks.base_models.gguf import load_gguf
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage.errors import ModelError


@pytest.fixture
def file(chat_model: Path, tmp_path: Path) -> Path:
    """The chat model as a 32-bit GGUF, with a first token as SmolLM2 has it: transformers reads no GGUF without."""
    folder = shutil.copytree(chat_model, tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.save_pretrained(folder)
    write_gguf(folder, tmp_path / "m.gguf", "F32")
    return tmp_path / "m.gguf"


def test_the_file_is_laid_out_as_llama_cpps_converter_does(chat_model: Path, file: Path) -> None:
    model = load_causal_lm(chat_model)
    weights = model.state_dict()
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
    plain = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
        "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj.weight",
        "blk.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
        "blk.1.ffn_gate.weight": "model.layers.1.mlp.gate_proj.weight",
        "blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj.weight",
        "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
    }
    for name, original in plain.items():
        assert tensors[name].tobytes() == weights[original].numpy().tobytes(), name
    # The two halves of each head's rotary dimensions interleave: 0, half, 1, half + 1, …
    width = model.config.head_dim
    within_head = [row for pair in zip(range(width // 2), range(width // 2, width), strict=True) for row in pair]
    for name, original in (("attn_q", "q_proj"), ("attn_k", "k_proj")):
        weight = weights[f"model.layers.1.self_attn.{original}.weight"].numpy()
        rows = [head + row for head in range(0, len(weight), width) for row in within_head]
        assert tensors[f"blk.1.{name}.weight"].tobytes() == weight[rows].tobytes(), name


def test_weights_and_tokens_come_back(chat_model: Path, file: Path) -> None:
    model, tokenizer = load_gguf(file, "float32")
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


def test_an_unknown_tokenizer_is_refused(file: Path) -> None:
    written = file.read_bytes()
    assert written.count(b"smollm") == 1
    file.write_bytes(written.replace(b"smollm", b"falcon"))
    with pytest.raises(ModelError, match=r"tokenizer 'gpt2/falcon' is not known here .* use the model's safetensors"):
        load_gguf(file, "float32")
