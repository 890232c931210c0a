"""Models loaded whole: every weight comes from the files, and the files hold no other.

transformers gives random numbers to a weight that the files lack, leaves out one that the architecture has no place
for, and only logs either: a green run of a wrong model follows. Here both are errors, and so are weights that are not
finite or of another shape than `config.json` says. Settings that contradict each other without changing an answer are
put right, with a warning.
"""

import logging
from pathlib import Path
from typing import Any

from tasks.models.checks import ADAPTER_CONFIG, ADAPTER_WEIGHTS, brief, names
from tasks.stage.errors import ModelError

log = logging.getLogger("polm")

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings of `generation_config.json` that only count with `do_sample: true`."""
ELSEWHERE = (".modules_to_save.", ".original_module.", "prompt_embeddings")
"""Parts of names that PEFT calls unexpected and has loaded: a soft prompt, and a resized embedding's second copy."""
PENALTIES = ("repetition_penalty", "diversity_penalty", "encoder_repetition_penalty")
"""Settings of `generation_config.json` that always count."""


def load_whole(auto: Any, folder: Path, new_head: bool = False, **options: Any) -> Any:
    """Load a model whose every weight is in the folder's files.

    Args:
        auto: class to load with, e.g. `AutoModelForCausalLM`.
        folder: model folder, looked at by `check_files`.
        new_head: whether the body alone has to be there, since a head is put on it that is trained next.
        **options: of `from_pretrained`.

    Raises:
        ModelError: transformers cannot load it, or weights are missing, left over, of other shapes or not finite.
    """
    _check_generation(folder)
    try:
        model, found = auto.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except Exception as e:  # whatever a folder from outside provokes: transformers raises every kind there is
        raise ModelError(f"{folder}: transformers cannot load it ({brief(e)})") from e
    check_found(model, found, folder, new_head)
    check_finite(model, folder)
    settle_ties(model, folder)
    return model


def check_found(model: Any, found: dict[str, Any], folder: Path, new_head: bool = False) -> None:
    """Refuse a model that is not what the files hold.

    Args:
        model: as loaded.
        found: transformers' `output_loading_info`.
        folder: for the message.
        new_head: whether only the body counts.

    Raises:
        ModelError: weights that are missing, left over, or of other shapes.
    """
    body = f"{model.base_model_prefix}." if new_head else ""
    missing = sorted(name for name in found["missing_keys"] if name.startswith(body))
    extra = sorted(name for name in found["unexpected_keys"] if name.startswith(body))
    shapes = sorted(found["mismatched_keys"])
    kind = type(model).__name__
    if shapes:
        several = "; ".join(
            f"{name} is {list(there)} in the files and {list(here)}" for name, there, here in shapes[:1]
        )
        raise ModelError(
            f"{folder}: {several} by config.json ({len(shapes)} tensors differ); take the config.json that belongs to "
            f"these weights, or write the folder again (`save_pretrained`)"
        )
    if missing:
        raise ModelError(
            f"{folder}: {names(missing)} of {kind} {_are(missing)} in none of its files and would be random; fetch the "
            f"files that are missing, or take the config.json that belongs to these weights"
        )
    if extra:
        raise ModelError(
            f"{folder}: {names(extra)} {_are(extra)} in its files, and {kind} by config.json has no place for "
            f"them; take the config.json that belongs to these weights, or remove the tensors that the model does "
            f"without"
        )


def load_adapter(adapted: Any, folder: Path) -> None:
    """Load an adapter's weights into a `PeftModel` that has it as `default`, all of them and no others.

    Raises:
        ModelError: PEFT cannot load them, or some are missing or left over.
    """
    path = folder / ADAPTER_WEIGHTS
    try:
        found = adapted.load_adapter(str(folder), "default", torch_device="cpu")
    except Exception as e:  # as in `load_whole`
        raise ModelError(f"{path}: PEFT cannot load it ({brief(e)}); take the model that it was trained on") from e
    extra = [key for key in found.unexpected_keys if not any(part in key for part in ELSEWHERE)]
    if found.missing_keys or extra:
        wrong = f"lacks {names(found.missing_keys)}" if found.missing_keys else f"has no place for its {names(extra)}"
        raise ModelError(
            f"{path}: {wrong} on this model by {ADAPTER_CONFIG}; take the model that it was trained on, or save the "
            f"adapter again"
        )


def check_finite(model: Any, folder: Path) -> None:
    """Refuse weights that are not numbers, or too large for their type. Raises ModelError."""
    import torch

    for name, weight in model.named_parameters():
        if not weight.numel() or not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
            continue  # empty: another process holds it; under 16 bits: packed
        low, high = torch.aminmax(weight.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ModelError(
                f"{folder}: {name} holds numbers that are not finite in {weight.dtype}; the training that wrote it "
                f"diverged, or the type is too narrow for it: take an earlier model or another `dtype`"
            )


def settle_ties(model: Any, folder: Path) -> None:
    """Say in the config that the head is its own where it is another matrix than the embedding.

    transformers then keeps both, and whoever reads the folder by its config, as the exporters do, would drop the head.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    if not getattr(config, "tie_word_embeddings", False) or head is None:
        return
    if head.weight is not model.get_input_embeddings().weight:
        log.warning(
            "warning: %s: config.json ties the head to the embedding, and the weights are two that differ; both are "
            "kept, and `tie_word_embeddings` is set to false",
            folder,
        )
        config.tie_word_embeddings = model.config.tie_word_embeddings = False


def _check_generation(folder: Path) -> None:
    """Refuse generation settings that cannot be read: transformers would load the model without them."""
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    if not path.exists():
        return
    try:
        settings = GenerationConfig.from_pretrained(folder)
    except Exception as e:  # as in `load_whole`
        raise ModelError(f"{path}: {brief(e)}; correct the file or remove it") from e
    for key in (*SAMPLING, *PENALTIES):
        value = getattr(settings, key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ModelError(f"{path}: {key} is {value!r}, and must be a number; correct the file or remove it")


def _are(items: list[str]) -> str:
    return "is" if len(items) == 1 else "are"
