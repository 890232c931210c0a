"""Model folders: what may be loaded, how, and how one is written."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from tasks.models import checks, weights
from tasks.models.turn_ends import settle, turn_end
from tasks.stage.errors import ModelError

PICKLES = {".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy"}
"""Suffixes of formats that can run code when loaded."""
PROMPT = "prompt"
"""Folder, inside a model folder, of a soft prompt in PEFT's own format (prompt or prefix tuning).

Vectors ahead of the text are no weights and cannot be merged, so the weights beside it are those of the model it was
trained for, and whoever answers with the model has to put it in front. `adapter/`, by contrast, only records what has
been merged, and loading ignores it.
"""


def check_folder(folder: Path, soft_prompt: bool = False, quantized: bool = False) -> None:
    """Refuse a model folder that could run code on loading it, or whose weights are not all there is to the model.

    Args:
        folder: to look at.
        soft_prompt: whether the caller puts a soft prompt (`PROMPT`) in front, so that one may be there.
        quantized: whether the caller only reads the model, so that its weights may be packed in few bits.

    Raises:
        ModelError: as `_folder.check_files`, a pickle, a Python file, a config that asks for remote code (`auto_map`),
            a soft prompt, unless `soft_prompt`, or packed weights, unless `quantized`.
    """
    refuse_code(folder)
    checks.check_files(folder)
    if (folder / PROMPT).exists() and not soft_prompt:
        raise ModelError(
            f"{folder / PROMPT}: a soft prompt is not in the weights, so the model can be evaluated, but neither "
            f"trained further nor exported; take one whose adapter is merged (LoRA, DoRA)"
        )
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        config = checks.read_object(path) if path.exists() else {}
        if "auto_map" in config:
            raise ModelError(
                f"{path}: 'auto_map' asks for remote code, which is never run; use a built-in architecture"
            )
        if config.get("quantization_config") is not None and not quantized:
            raise ModelError(
                f"{folder}: its weights are quantised, so the model can be evaluated and served, but neither trained "
                f"further, pruned, merged nor exported; take the model that it was made from"
            )


def refuse_code(folder: Path) -> None:
    """Refuse a folder with a file that could run code. Raises ModelError."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in PICKLES:
            advice = (  # trainers leave training_args.bin, optimizer.pt and the like beside what they save
                "the weights beside it are safetensors, so that it is not needed: remove it"
                if any(folder.glob("*.safetensors"))
                else "convert the weights to safetensors (`AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)` "
                "in a sandbox) and remove it"
            )
            raise ModelError(f"{path}: a pickle can run code when it is loaded; {advice}")
        if path.suffix == ".py":
            raise ModelError(f"{path}: code inside a model folder is never run; remove it")


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer, with a pad token, and with its ends among the special tokens, which are no text.

    Raises:
        ModelError: it has no end-of-sequence token.
    """
    from transformers import AddedToken, AutoTokenizer

    tokenizer = checks.read_tokenizer(AutoTokenizer, folder)
    if tokenizer.eos_token is None:
        raise ModelError(f"{folder}: the tokenizer has no eos_token, so that no answer would ever end")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id, turn_end(tokenizer)}
    shown = [token for i, token in tokenizer.added_tokens_decoder.items() if i in ends and not token.special]
    if shown:
        special = [AddedToken(token.content, special=True, normalized=False) for token in shown]
        tokenizer.add_tokens(special, special_tokens=True)
    return tokenizer


def load_causal_lm(folder: Path, dtype: str = "float32", soft_prompt: bool = False, quantized: bool = False) -> Any:
    """Load a causal language model from safetensors, without sampling settings of its own (`_ends.settle`).

    Args:
        folder: model folder.
        dtype: of the weights, a torch dtype's name.
        soft_prompt: put the folder's soft prompt in front, if it has one, and return a `PeftModel`, which answers and
            scores and is not to be trained. Prompt tuning's logits begin with those of the prompt's own vectors.
        quantized: take packed weights too; they are unpacked here.

    Raises:
        ModelError: as `check_folder`.
    """
    from transformers import AutoModelForCausalLM

    check_folder(folder, soft_prompt, quantized)
    checks.check_causal(folder)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "use_safetensors": True}
    packed = _is_packed(folder)
    model = _unpacked(folder, options) if packed else weights.load_whole(AutoModelForCausalLM, folder, **options)
    settle(model, load_tokenizer(folder), folder)
    return _prompted(model, folder / PROMPT) if (folder / PROMPT).exists() else model


def _is_packed(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("quantization_config") is not None


def _unpacked(folder: Path, options: dict[str, Any]) -> Any:
    """Load packed weights, and call the model once, which unpacks them: both draw bars whatever the settings say."""
    import torch
    from transformers import AutoModelForCausalLM

    with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        model = weights.load_whole(AutoModelForCausalLM, folder, **options)
        model(torch.zeros(1, 1, dtype=torch.long))
    return model


def _prompted(model: Any, folder: Path) -> Any:
    """Put a soft prompt in front of a model, for answering.

    PEFT 0.21 drops the position ids in prompt tuning and numbers a padded row from its padding on. Between the prompt
    and the text then lies a gap that training never had, and an answer depends on which rows it is batched with.
    """
    from peft import PeftConfig, PeftModelForCausalLM

    class Prompted(PeftModelForCausalLM):
        def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
            kwargs.pop("position_ids", None)
            inputs = super().prepare_inputs_for_generation(*args, **kwargs)
            new = (inputs["input_ids"] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]).shape[1]
            positions = inputs["attention_mask"].long().cumsum(-1) - 1  # of prompt and text alike
            return {**inputs, "position_ids": positions.clamp(min=0)[:, -new:]}

    config = PeftConfig.from_pretrained(folder)
    if not config.is_prompt_learning:
        raise ModelError(f"{folder}: {config.peft_type.value} is no soft prompt; merge it into the weights")
    prompted = Prompted(model, config)
    weights.load_adapter(prompted, folder)
    return prompted.requires_grad_(False).eval()


def save_model(model: Any, tokenizer: Any, out: Path) -> None:
    """Write a model folder: safetensors, tokenizer, `chat_template.jinja`. The bytes depend on the weights alone."""
    out.mkdir(parents=True, exist_ok=True)
    settle(model, tokenizer, out)
    model.config._name_or_path = ""
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "_commit_hash", "is_local", "local_files_only"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    check_folder(out, quantized=True)
