"""Encoders that are trained already: their weights, under the names that transformers has for the same network.

EfficientNet-Lite (Tan, 2020) is EfficientNet without what small devices compute slowly: ReLU6 takes the place of SiLU,
and the squeeze-and-excitation of each block is left out. transformers has none of its own, so its EfficientNet is
given one that does nothing: a gate whose bias opens it wholly.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.models.checks import brief
from tasks.stage.errors import ConfigError, ModelError

LITE = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}
"""Modules of `efficientnet_lite_pytorch` outside of the blocks, and what transformers calls them."""
LITE_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
"""Modules of one block."""
OPEN = 100.0
"""Bias of a gate, whose sigmoid is 1 in every data type, with a gradient of 0."""


def load(tower: Any, path: Path, where: Path) -> None:
    """Load the weights of an encoder in place.

    Args:
        tower: the encoder.
        path: file of a state dict, in transformers' names or in those of `efficientnet_lite_pytorch`.
        where: the recipe file, for messages.

    Raises:
        ModelError: the file holds no tensors, or something beside them.
        ConfigError: its weights are not those of `architecture.vision`.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever a file from outside provokes
        raise ModelError(f"{path}: no state dict ({brief(e)}); name a file of tensors alone") from None
    is_lite = "_conv_stem.weight" in state
    if is_lite:
        state = translated(state)
        state |= {
            name: _gate(name, weight) for name, weight in tower.state_dict().items() if ".squeeze_excite." in name
        }
    try:
        tower.load_state_dict(state)
    except RuntimeError as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        raise ConfigError(
            f"{where}: the weights of {path.name} are not those of architecture.vision ({' '.join(lines[1:2])[:200]}); "
            f"give it the shape of the network that they are of"
        ) from None


def translated(state: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the weights of an `efficientnet_lite_pytorch` model, without its classifier."""
    names = {}
    for name in state:
        first, *rest = name.split(".")
        if first == "_blocks":
            number, module, *rest = rest
            names[name] = ".".join(["encoder.blocks", number, LITE_BLOCK.get(module, module), *rest])
        elif first != "_fc":
            names[name] = ".".join([LITE.get(first, first), *rest])
    return {new: state[name] for name, new in names.items()}


def _gate(name: str, weight: Any) -> Any:
    """Return the weights of a gate that lets everything through."""
    import torch

    return torch.full_like(weight, OPEN if name.endswith("expand.bias") else 0.0)
