"""Fewer decoder layers: a shallower model out of a deep one, embedding, final norm and head as they were.

What stays is a list of indices, so the caller decides by what rule: every other layer (DistilBERT, Sanh et al.,
arXiv:1910.01108), or those that change the stream most (ShortGPT, Men et al., arXiv:2403.03853).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.stage.errors import ConfigError, ModelError


def depth(folder: Path) -> int | None:
    """Count the decoder layers of a model folder, by its `config.json` alone; None where that has no such number."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    count = config.get("text_config", config).get("num_hidden_layers")
    return int(count) if count is not None else None


def check_indices(indices: Sequence[int], folder: Path, where: str) -> None:
    """Refuse what `keep_layers` would, before any weight is read.

    Args:
        indices: of the layers kept.
        folder: of the model.
        where: file and key, for the message.

    Raises:
        ConfigError: no indices, one that repeats, falls or is not there.
    """
    count = depth(folder)
    if count is not None and (fault := _fault(indices, count)):
        raise ConfigError(f"{where}: {fault}")


def _fault(indices: Sequence[int], count: int) -> str | None:
    if not indices:
        return f"no layer would be kept; name at least one of 0 to {count - 1}"
    for before, index in zip([-1, *indices], indices, strict=False):
        if not 0 <= index < count:
            return f"there is no layer {index} to keep; the model has 0 to {count - 1}"
        if index <= before:
            return f"layer {index} comes after layer {before}; name each kept layer once, rising"
    return None


def keep_layers(model: Any, indices: Sequence[int]) -> None:
    """Keep these decoder layers, in place; renumber them, for the cache, and shorten the configuration.

    Args:
        model: a causal language model of transformers whose decoder is a list `layers`, e.g. Llama, Qwen, SmolLM.
        indices: of the layers kept, from 0, rising.

    Raises:
        ModelError: no indices, one that repeats, falls or is not there, or a model of another build.
    """
    from torch.nn import ModuleList

    decoder, config = model.get_decoder(), model.config
    layers, kind = decoder_layers(model), type(model).__name__
    if fault := _fault(indices, len(layers)):
        raise ModelError(f"{kind}: {fault}")
    decoder.layers = ModuleList(layers[index] for index in indices)
    for number, layer in enumerate(decoder.layers):
        _renumber(layer, number)
    config.num_hidden_layers = len(indices)
    for key in ("layer_types", "no_rope_layers"):
        if getattr(config, key, None) is not None:
            setattr(config, key, [getattr(config, key)[index] for index in indices])


def decoder_layers(model: Any) -> Any:
    """Find the decoder's layers, a `torch.nn.ModuleList`. Raises ModelError for a model of another build."""
    from torch.nn import ModuleList

    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, ModuleList) or len(layers) != getattr(model.config, "num_hidden_layers", None):
        raise ModelError(
            f"{type(model).__name__}: its decoder is no list `layers` of config.num_hidden_layers, so that none of "
            "them can be taken by itself; take a decoder-only text model"
        )
    return layers


def _renumber(layer: Any, number: int) -> None:
    """Number the layers anew: attention finds its keys and values in the cache by its layer's number."""
    for module in layer.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx = number
