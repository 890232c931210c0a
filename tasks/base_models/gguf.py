"""GGUF files made dense again: weights dequantised, and the tokenizer as the file describes it.

transformers builds the tokenizer of a llama-architecture GGUF in SentencePiece's manner, also where the file says that
it is a byte-level BPE; then answers have no end and text is split where the model never saw it split. The file's own
fields (`tokenizer.ggml.*`) decide here.
"""

from pathlib import Path
from typing import Any

from tasks.models import weights
from tasks.stage.errors import ModelError

SPLITS_DIGITS = {"smollm": True, "gpt-2": False}
"""Pre-tokenizers known here (`tokenizer.ggml.pre`), and whether each digit is a token of its own."""


def load_gguf(path: Path, dtype: str) -> tuple[Any, Any]:
    """Load model and tokenizer from one GGUF file.

    Args:
        path: the file.
        dtype: torch dtype of the dense weights, e.g. `float32`.

    Raises:
        ModelError: a tokenizer that is not a byte-level BPE of a kind known here, or weights that are not whole.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    _follow_the_file(tokenizer, path)
    model = weights.load_whole(AutoModelForCausalLM, path.parent, gguf_file=path.name, dtype=dtype)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _follow_the_file(tokenizer: Any, path: Path) -> None:
    """Make the tokenizer the byte-level BPE that the file describes, with its end and padding tokens."""
    from gguf import GGUFReader
    from tokenizers import decoders, pre_tokenizers

    fields = GGUFReader(path).fields
    kind, pre = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("model", "pre"))
    if kind != "gpt2" or pre not in SPLITS_DIGITS:
        raise ModelError(
            f"{path.name}: tokenizer '{kind}/{pre}' is not known here (known: gpt2/{', gpt2/'.join(SPLITS_DIGITS)}); "
            f"use the model's safetensors folder as the source"
        )
    core = tokenizer.backend_tokenizer
    digits = [pre_tokenizers.Digits(individual_digits=True)] if SPLITS_DIGITS[pre] else []
    core.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    core.decoder = decoders.ByteLevel()
    core.model.byte_fallback = False
    core.model.fuse_unk = False
    core.model.unk_token = None
    tokenizer.clean_up_tokenization_spaces = False  # it would strip spaces before punctuation; every load warns of it
    tokens = fields["tokenizer.ggml.tokens"]
    for role, name in (("eos_token", "eos_token_id"), ("pad_token", "padding_token_id")):
        setattr(tokenizer, role, tokens.contents(fields[f"tokenizer.ggml.{name}"].contents()))
