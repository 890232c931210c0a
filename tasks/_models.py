"""Model folders: what may be loaded, how, and how one is written."""

import json
from pathlib import Path
from typing import Any

from tasks._errors import ModelError

PICKLES = {".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy"}
"""Suffixes of formats that can run code when loaded."""


def check_folder(folder: Path) -> None:
    """Refuse a model folder that could run code on loading it.

    Raises:
        ModelError: no `config.json`, a pickle, a Python file, or a config that asks for remote code (`auto_map`).
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; expected a Hugging Face model folder")
    for path in sorted(folder.rglob("*")):
        if path.suffix in PICKLES:
            raise ModelError(
                f"{path}: a pickle can run code when it is loaded; convert the weights to safetensors "
                f"(`AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)` in a sandbox) and remove it"
            )
        if path.suffix == ".py":
            raise ModelError(f"{path}: code inside a model folder is never run; remove it")
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        try:
            config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as e:
            raise ModelError(f"{path}: not JSON ({e})") from None
        if "auto_map" in config:
            raise ModelError(
                f"{path}: 'auto_map' asks for remote code, which is never run; use a built-in architecture"
            )


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer, with a pad token. Raises ModelError when it has no end-of-sequence token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.eos_token is None:
        raise ModelError(f"{folder}: the tokenizer has no eos_token, so that no answer would ever end")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(folder: Path, dtype: str = "float32") -> Any:
    """Load a causal language model from safetensors, in `dtype` (a torch dtype's name)."""
    from transformers import AutoModelForCausalLM

    check_folder(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False, use_safetensors=True)


def save_model(model: Any, tokenizer: Any, out: Path) -> None:
    """Write a model folder: safetensors, tokenizer, `chat_template.jinja`. The bytes depend on the weights alone."""
    out.mkdir(parents=True, exist_ok=True)
    model.config._name_or_path = ""
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "_commit_hash", "is_local", "local_files_only"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    check_folder(out)
