"""Fewer decoder layers: a shallower model out of a deep one, embedding, final norm and head as they were.

What stays is a list of indices, so the caller decides by what rule: every other layer (DistilBERT, Sanh et al.,
arXiv:1910.01108), or those that change the stream most (ShortGPT, Men et al., arXiv:2403.03853).
"""

from collections.abc import Sequence
from typing import Any

from tasks._errors import ModelError


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
    layers = getattr(decoder, "layers", None)
    kind = type(model).__name__
    if not isinstance(layers, ModuleList) or len(layers) != getattr(config, "num_hidden_layers", None):
        raise ModelError(
            f"{kind}: its decoder is no list `layers` of config.num_hidden_layers, so that none can be left out; take "
            f"a decoder-only text model"
        )
    if not indices:
        raise ModelError(f"{kind}: no layer would be kept; name at least one of 0 to {len(layers) - 1}")
    for before, index in zip([-1, *indices], indices, strict=False):
        if not 0 <= index < len(layers):
            raise ModelError(f"{kind}: there is no layer {index} to keep; the model has 0 to {len(layers) - 1}")
        if index <= before:
            raise ModelError(f"{kind}: layer {index} comes after layer {before}; name each kept layer once, rising")
    decoder.layers = ModuleList(layers[index] for index in indices)
    for number, layer in enumerate(decoder.layers):
        _renumber(layer, number)
    config.num_hidden_layers = len(indices)
    for key in ("layer_types", "no_rope_layers"):
        if getattr(config, key, None) is not None:
            setattr(config, key, [getattr(config, key)[index] for index in indices])


def _renumber(layer: Any, number: int) -> None:
    """Attention finds its keys and values in the cache by its layer's number."""
    for module in layer.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx = number
