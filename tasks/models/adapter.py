"""An adapter from elsewhere, merged into the model that it was trained on.

PEFT does the arithmetic (LoRA, arXiv:2106.09685; DoRA, arXiv:2402.09353; and the others that it can merge). It also
loads an adapter of which half is missing and leaves out tensors that it has no place for, with a warning at most; here
both are errors. An embedding that was resized for new tokens is resized here too. What cannot be told is whether the
model is the very one that the adapter was trained on, if all shapes fit: another name is a warning.
"""

import logging
from pathlib import Path
from typing import Any

from tasks.models.checks import ADAPTER_CONFIG, ADAPTER_WEIGHTS, brief, check_links, check_numbers, names, read_object
from tasks.models.folder import refuse_code
from tasks.models.weights import check_finite, load_adapter, settle_ties
from tasks.stage.errors import ModelError

log = logging.getLogger("polm")

PREFIX = "base_model.model."
"""What PEFT puts before the names that a model's own modules have."""


def merge_adapter(model: Any, folder: Path, base: str) -> Any:
    """Merge an adapter into a model.

    Args:
        model: a causal language model, which is used up.
        folder: PEFT's: `adapter_config.json` and `adapter_model.safetensors`.
        base: name of the model, to hold against the one that the adapter names.

    Returns:
        The model with the adapter in its weights, in the same type of numbers.

    Raises:
        ModelError: a folder without a readable adapter, one that has no weights to merge (a soft prompt), one of
            another kind of model, or one that does not fit this model.
    """
    from peft import PeftModel

    config = _read_config(folder)
    shapes = check_numbers(folder / ADAPTER_WEIGHTS, quantized=False)
    _compare_names(config, folder, base)
    if unsaved := _unsaved(config, shapes):
        raise ModelError(
            f"{folder / ADAPTER_WEIGHTS}: lacks {names(unsaved)}, trained in full by {ADAPTER_CONFIG}; save it again"
        )
    _resize(model, shapes, folder)
    _untie(model, shapes)
    config.base_model_name_or_path = None  # PEFT warns where it is another folder's
    try:
        adapted = PeftModel(model, config)
    except Exception as e:  # PEFT raises every kind there is for an adapter of another model
        raise ModelError(
            f"{folder}: PEFT cannot put this adapter on {base} ({brief(e)}); take the model that it was trained on"
        ) from e
    load_adapter(adapted, folder)
    check_finite(adapted, folder)
    _warn_if_idle(adapted, folder)
    merged = adapted.merge_and_unload()
    check_finite(merged, folder)
    settle_ties(merged, folder)
    return merged.requires_grad_(True)


def has_tokenizer(folder: Path) -> bool:
    """Tell whether the adapter brings a tokenizer, as trainers save it beside, with the tokens that were added."""
    return (folder / "tokenizer_config.json").exists()


def _read_config(folder: Path) -> Any:
    """Read PEFT's config of an adapter that may be merged."""
    from peft import PeftConfig

    check_links(folder)
    refuse_code(folder)
    path = folder / ADAPTER_CONFIG
    if not path.exists():
        raise ModelError(f"{folder}: no {ADAPTER_CONFIG}; `adapter:` takes a folder that PEFT wrote, or null")
    read_object(path)
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise ModelError(f"{folder}: no {ADAPTER_WEIGHTS}; save the adapter again (`save_pretrained`)")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as e:  # as in `merge_adapter`
        raise ModelError(f"{path}: PEFT cannot read it ({brief(e)}); save the adapter again") from e
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ModelError(
            f"{path}: {config.peft_type.value} is a soft prompt, vectors ahead of the text, which cannot be merged "
            f"into the weights; take a LoRA or DoRA adapter"
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise ModelError(f"{path}: an adapter for {config.task_type}; take one of a causal language model (CAUSAL_LM)")
    return config


def _compare_names(config: Any, folder: Path, base: str) -> None:
    named = config.base_model_name_or_path
    if named and Path(named).name.lower() != Path(base).name.lower():
        log.warning(
            "warning: %s: trained on %s, and merged into %s; if they are not the same weights, the result is neither",
            folder / ADAPTER_CONFIG,
            named,
            base,
        )


def _resize(model: Any, shapes: dict[str, list[int]], folder: Path) -> None:
    """Give the embedding as many rows as the adapter's has, where it brings one."""
    modules = {id(module): name for name, module in model.named_modules()}
    ends = [modules[id(module)] for module in (model.get_input_embeddings(), model.get_output_embeddings())]
    copies = ("", ".base_layer", ".modules_to_save", ".original_module")
    keys = [f"{PREFIX}{end}{copy}.weight" for end in ends for copy in copies]
    rows = {shapes[key][0] for key in keys if key in shapes}
    if len(rows) > 1:
        raise ModelError(
            f"{folder / ADAPTER_WEIGHTS}: embedding and head differ in rows ({sorted(rows)}); save it again"
        )
    if rows and rows != {len(model.get_input_embeddings().weight)}:
        [count] = rows
        log.info("%s: resizing the embedding to the adapter's %d tokens", folder, count)
        model.resize_token_embeddings(count, mean_resizing=False)


def _untie(model: Any, shapes: dict[str, list[int]]) -> None:
    """Give the head weights of its own where the adapter changes one end alone, since merging would change both."""
    import torch

    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head.weight is table.weight and any("lora_embedding_" in key or "lm_head.lora_" in key for key in shapes):
        head.weight = torch.nn.Parameter(table.weight.detach().clone())


def _unsaved(config: Any, shapes: dict[str, list[int]]) -> list[str]:
    """Find modules that the config calls trained in full, and that are not in the file."""
    listed = getattr(config, "modules_to_save", None) or []
    return [name for name in listed if not any(f".{name}." in key for key in shapes)]


def _warn_if_idle(adapted: Any, folder: Path) -> None:
    last = [weight for name, weight in adapted.named_parameters() if ".lora_B." in name]
    if last and not any(weight.any() for weight in last):
        log.warning("warning: %s: every lora_B is zero, as before training; merging changes nothing", folder)
