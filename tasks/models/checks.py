"""The files of a model folder, looked at before anything is loaded: what is missing, broken, or says two things.

What only shows on loading the weights is in `tasks/models/weights.py`. A folder that passes here has a configuration
that transformers can read, whole safetensors, and a tokenizer none of whose tokens lies outside the embedding.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.stage.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FLOATS = {"F64", "F32", "F16", "BF16"}
"""Types of numbers, as safetensors calls them, that are weights by themselves; fewer bits need a scale beside them."""
NAMED = 3
"""Names that a message lists, at most."""


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object. Raises ModelError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ModelError(f"{path}: not JSON ({e}); take the file from where the model came from again") from None
    if not isinstance(value, dict):
        raise ModelError(
            f"{path}: holds a {type(value).__name__}; expected a JSON object, as `save_pretrained` writes it"
        )
    return value


def check_files(folder: Path) -> None:
    """Look at a model folder's files without loading them.

    Raises:
        ModelError: no folder, a link to nowhere, no `config.json`, an adapter, a file that is not JSON, or weights that
            are cut short, not there, or in numbers that mean nothing without a scale.
    """
    check_links(folder)
    _refuse_adapter(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; expected a Hugging Face model folder")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", INDEX):
        if (folder / name).exists():
            read_object(folder / name)
    quantized = read_object(folder / "config.json").get("quantization_config") is not None
    for path in weight_files(folder):
        check_numbers(path, quantized)


def check_links(folder: Path) -> None:
    """Refuse something that is no folder, or holds a link to nowhere. Raises ModelError."""
    if not folder.is_dir():
        wrong = "is a file" if folder.exists() else "no such folder"
        raise ModelError(f"{folder}: {wrong}; expected a Hugging Face model folder")
    for path in sorted(folder.rglob("*")):
        if not path.exists():
            raise ModelError(f"{path}: a link to {path.readlink()}, which does not exist; copy the file itself there")


def _refuse_adapter(folder: Path) -> None:
    path = folder / ADAPTER_CONFIG
    if not path.exists():
        return
    base = read_object(path).get("base_model_name_or_path") or "its base model"
    beside = (folder / "config.json").exists()
    also = (
        ", beside a config.json, so that the folder holds an adapter and a model, and nothing says which is meant: "
        "remove the adapter if it has been merged, or"
        if beside
        else ":"
    )
    raise ModelError(
        f"{path}: an adapter of {base}{also} give the base model as `source` in the recipe's base.yaml and this folder "
        f"as its key `adapter:`, and it is merged"
    )


def weight_files(folder: Path) -> list[Path]:
    """Find the files that hold a folder's weights.

    Raises:
        ModelError: none, both one file and an index of several, or an index of files that are not in the folder.
    """
    whole, index = folder / WEIGHTS, folder / INDEX
    if whole.exists() and index.exists():
        raise ModelError(
            f"{index}: names other files than {WEIGHTS}, which is there too and would be read alone; remove one"
        )
    if whole.exists():
        return [whole]
    if not index.exists():
        raise ModelError(
            f"{folder}: no {WEIGHTS} and no {INDEX}; convert the weights to safetensors (`save_pretrained`)"
        )
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{index}: no 'weight_map' of tensors to files; write it again (`save_pretrained`)")
    files = sorted(set(places.values()))
    for name in files:
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelError(f"{index}: names {name}, which is not in the folder; fetch that file too")
    return [folder / name for name in files]


def check_numbers(path: Path, quantized: bool) -> dict[str, list[int]]:
    """Look at the header of a safetensors file.

    Args:
        path: the file.
        quantized: whether scales are expected beside the weights.

    Returns:
        Shape of each tensor, by name.

    Raises:
        ModelError: not such a file, one cut short, or, unless `quantized`, weights of fewer than 16 bits.
    """
    from safetensors import SafetensorError, safe_open

    shapes = {}
    try:
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no dictionary
                view = tensors.get_slice(name)
                shapes[name] = view.get_shape()
                kind = view.get_dtype()
                if not quantized and kind not in FLOATS and (name.endswith(".weight") or kind[:2] in ("F8", "F4")):
                    raise ModelError(
                        f"{path}: {name} is of type {kind}, and config.json has no 'quantization_config' that says how "
                        f"to scale it; take the model in 16 or 32 bits"
                    )
    except SafetensorError as e:
        raise ModelError(f"{path}: cut short, or no safetensors ({e}); fetch or write the file again") from None
    return shapes


def check_causal(folder: Path) -> None:
    """Refuse a config of something else than a decoder that predicts the next token, or of tokens that it lacks.

    Raises:
        ModelError: with the architecture, or the key and its value.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = read_config(folder)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        remedy = "take a decoder, such as Llama, Qwen or SmolLM"
        if hasattr(config, "vision_config"):
            remedy = "of a model that sees, take the language model that it was made from"
        raise ModelError(
            f"{folder / 'config.json'}: '{config.model_type}' is no causal language model in transformers; {remedy}"
        )
    held = (config.architectures or ["Model"])[0]
    expected = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__
    if held != expected and not held.endswith("Model"):
        raise ModelError(
            f"{folder / 'config.json'}: the folder holds {held} and no language model ({expected}); take the one that "
            f"it was made from"
        )
    _check_ids(config, folder)


def _check_ids(config: Any, folder: Path) -> None:
    """Refuse special tokens that lie outside the vocabulary."""
    rows = config.get_text_config().vocab_size
    path = folder / "generation_config.json"
    generation = read_object(path) if path.exists() else {}
    for file, values in (("config.json", vars(config)), (path.name, generation)):
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = values.get(key)
            for number in value if isinstance(value, list) else [value]:
                if number is not None and (not isinstance(number, int) or number >= rows):
                    raise ModelError(
                        f"{folder / file}: {key} is {number!r}, and the model has {rows} tokens; correct it"
                    )


def check_tokens(tokenizer: Any, folder: Path, rows: int) -> None:
    """Refuse a tokenizer with tokens that a model has no embedding for.

    Args:
        tokenizer: any Hugging Face tokenizer.
        folder: where it came from, for the message.
        rows: of the model's embedding.

    Raises:
        ModelError: with the size of the vocabulary and of the embedding.
    """
    vocabulary = tokenizer.get_vocab()
    beyond = sorted((token for token, number in vocabulary.items() if number >= rows), key=vocabulary.__getitem__)
    if beyond:
        raise ModelError(
            f"{folder}: the tokenizer has {max(vocabulary.values()) + 1} tokens and the embedding {rows} rows, so that "
            f"{names(beyond)} would read past its end; resize the model's "
            f"(`model.resize_token_embeddings(len(tokenizer))`) or take the tokens out of the tokenizer"
        )


def read_tokenizer(auto: Any, folder: Path) -> Any:
    """Load a tokenizer by the class `auto`.

    Raises:
        ModelError: it cannot be read, has no vocabulary or no such end token, or has tokens that the model beside it,
            if there is one, has no embedding for.
    """
    for name in ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            read_object(folder / name)
    try:
        tokenizer = auto.from_pretrained(folder)
    except Exception as e:  # tokenizers raises bare Exceptions
        raise ModelError(f"{folder}: its tokenizer cannot be read ({brief(e)}); write it again") from e
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise ModelError(f"{folder}: the tokenizer has no vocabulary; put tokenizer.json (or tokenizer.model) there")
    if (folder / "config.json").is_file():
        check_tokens(tokenizer, folder, read_config(folder).get_text_config().vocab_size)
    _check_end(tokenizer, folder)
    return tokenizer


def _check_end(tokenizer: Any, folder: Path) -> None:
    """Refuse an end token that only the settings name: transformers appends it, and no model has learnt it."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    end = tokenizer.eos_token
    if end is None or not path.exists() or Tokenizer.from_file(str(path)).token_to_id(end) is not None:
        return
    settings, added = folder / "tokenizer_config.json", folder / "added_tokens.json"
    listed = read_object(settings).get("added_tokens_decoder") if settings.exists() else None
    named = {token["content"] for token in (listed or {}).values()} | set(read_object(added) if added.exists() else ())
    if end not in named:
        raise ModelError(
            f"{settings}: eos_token is {end!r}, which is no token of {path.name}; name the one that ends a turn"
        )


def read_config(folder: Path) -> Any:
    """Read `config.json` as transformers does. Raises ModelError."""
    from transformers import AutoConfig

    read_object(folder / "config.json")
    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as e:  # as in `load_whole`
        raise ModelError(f"{folder / 'config.json'}: transformers cannot read it ({brief(e)})") from e


def names(items: Iterable[str]) -> str:
    """Name the first of some names, and say how many more there are."""
    listed = list(items)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def brief(error: Exception) -> str:
    """Write the type of another library's error, and the beginning of its text, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
