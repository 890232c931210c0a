"""A Hugging Face folder as a GGUF file, as llama.cpp's own converter lays it out: Llama with a byte-level BPE.

`F32` keeps the weights and proves the layout. The others round blocks of 32 weights; as llama.cpp's own Q4_0
does for rows that no K-quant fits, the embedding, which is the last product too, stays at 8 bits. Norms stay float32.
"""

import json
from pathlib import Path
from typing import Any

from tasks.base_models.gguf import SPLITS_DIGITS
from tasks.models.turn_ends import turn_end
from tasks.stage.errors import ModelError

KINDS = ("F32", "Q8_0", "Q4_1", "Q4_0")


def write_gguf(folder: Path, path: Path, kind: str) -> None:
    """Write a model as a GGUF file.

    Args:
        folder: Hugging Face model folder.
        path: file to write.
        kind: kind of the weights, one of `KINDS`.

    Raises:
        ModelError: another architecture or tokenizer than those above.
    """
    import gguf

    from tasks.models.folder import load_causal_lm, load_tokenizer

    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    config = model.config
    if config.model_type != "llama" or config.rope_parameters["rope_type"] != "default":
        raise ModelError(f"{folder}: only a Llama with plain rotary positions is written as GGUF; leave out --gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(kind, f"MOSTLY_{kind}")])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, folder, tokenizer, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(name, try_suffixes=(".weight",))
        if target is None:
            raise ModelError(f"{folder}: {name} has no name in a GGUF file; leave out --gguf")
        weight = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = _interleaved(weight, config.head_dim)
        whole = name.startswith(("model.embed_tokens.", "lm_head."))
        own = "F32" if weight.ndim == 1 else "Q8_0" if whole and kind in ("Q4_0", "Q4_1") else kind
        quantised = gguf.GGMLQuantizationType[own]
        writer.add_tensor(target, gguf.quants.quantize(weight, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def weight_bytes(path: Path) -> int:
    """Count the bytes of the tensors that one token reads: all, less an embedding that is no output layer too."""
    from gguf import GGUFReader

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    return sum(sizes.values()) - (sizes["token_embd.weight"] if "output.weight" in sizes else 0)


def _interleaved(weight: Any, width: int) -> Any:
    """Lay rotary dimensions out as pairs (0, 1), (2, 3), … of a head, where transformers pairs its two halves."""
    rows, columns = weight.shape
    return weight.reshape(rows // width, 2, width // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _add_tokenizer(writer: Any, folder: Path, tokenizer: Any, size: int) -> None:
    """Add vocabulary, merges, special tokens and template. Raises ModelError for no byte-level BPE known here."""
    from gguf import TokenType

    core = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    split = core["pre_tokenizer"]
    parts = split["pretokenizers"] if split["type"] == "Sequence" else [split]
    kinds = [part["type"] for part in parts]
    if core["model"]["type"] != "BPE" or kinds not in (["Digits", "ByteLevel"], ["ByteLevel"]):
        raise ModelError(f"{folder}/tokenizer.json: no byte-level BPE of a kind known here; leave out --gguf")
    tokens = core["model"]["vocab"] | {token["content"]: token["id"] for token in core["added_tokens"]}
    by_id = {i: token for token, i in tokens.items()}
    types = [TokenType.NORMAL if i in by_id else TokenType.UNUSED for i in range(size)]
    for token in core["added_tokens"]:
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(next(pre for pre, digits in SPLITS_DIGITS.items() if digits == ("Digits" in kinds)))
    writer.add_token_list([by_id.get(i, f"<unused{i}>") for i in range(size)])
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in core["model"]["merges"]])
    for add, token_id in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_eot_token_id, turn_end(tokenizer)),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if token_id is not None:
            add(token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
