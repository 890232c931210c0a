"""What is known of the model that a recipe starts from, without its weights: shape, names of modules, tokenizer.

It is read where it is: `artifacts/models/base` where the recipe has made it, else the folder that base.yaml names, or
a folder in place of its hub id; of a model that is trained from scratch, base.yaml says the shape.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.base import Config as BaseConfig
from tasks.base import FolderModel, HubModel, ScratchModel
from tasks.check.files import Recipe
from tasks.check.rows import BASE, made_by
from tasks.models import checks
from tasks.stage.errors import PolmError

NAMES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden": ("hidden_size", "n_embd"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions"),
}
"""What a configuration calls each figure."""


@dataclass(frozen=True)
class Facts:
    """A base model. Figures are 0 where its configuration does not say them."""

    place: str
    """Where they are from, for messages."""
    folder: Path | None
    """Model folder with a tokenizer; None for one that is yet to be trained."""
    layers: int
    hidden: int
    vocabulary: int
    context: int
    """Most tokens of a text."""
    parameters: int
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each matrix of weights, by the name of its module; empty where there are no weights yet."""


def find(under_check: Recipe) -> Facts | None:
    """Find the base model of a recipe; None where it is not on this machine, or its files are wrong."""
    config = under_check.of("base.yaml", BaseConfig)
    if config is None:
        return None
    path = under_check.folder / "base.yaml"
    source = config.source
    made = made_by(under_check)
    if made and not isinstance(source, ScratchModel):
        return _of_folder(BASE, str(BASE))
    if isinstance(source, ScratchModel):
        values = {**source.scratch.model, "vocab_size": source.scratch.tokenizer.vocab_size}
        return _of_values(values, f"{path}: source.scratch.model", BASE if made else None, {})
    folder = (
        source.folder if isinstance(source, FolderModel) else Path(source.hub) if isinstance(source, HubModel) else None
    )
    return _of_folder(folder, str(folder)) if folder is not None and folder.is_dir() else None


def _of_folder(folder: Path, place: str) -> Facts | None:
    try:
        checks.check_files(folder)
        values = checks.read_object(folder / "config.json")
        shapes = _shapes(folder)
    except (PolmError, OSError, ValueError):  # `context.check` says what is wrong with the folder
        return None
    values = {**values, **values.get("text_config", {})}
    return _of_values(values, place, folder, shapes)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of all tensors from the headers of the weights."""
    from safetensors import safe_open

    shapes = {}
    for path in checks.weight_files(folder):
        with safe_open(path, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118  # no mapping
                shapes[name] = tuple(weights.get_slice(name).get_shape())
    return shapes


def _of_values(values: Mapping[str, Any], place: str, folder: Path | None, tensors: Mapping[str, Any]) -> Facts:
    figures = {key: _figure(values, names) for key, names in NAMES.items()}
    counted = sum(math.prod(shape) for shape in tensors.values()) or _count(values, figures)
    modules = {name.removesuffix(".weight"): shape for name, shape in tensors.items() if name.endswith(".weight")}
    return Facts(place, folder, **figures, parameters=counted, shapes=modules)


def _figure(values: Mapping[str, Any], names: tuple[str, ...]) -> int:
    found = [values[name] for name in names if isinstance(values.get(name), int)]
    return found[0] if found else 0


def _count(values: Mapping[str, Any], figures: Mapping[str, int]) -> int:
    """Count the parameters of a Llama of this shape, norms left out."""
    hidden, inner = figures["hidden"], _figure(values, ("intermediate_size",))
    heads = _figure(values, ("num_attention_heads",)) or 1
    shared = (_figure(values, ("num_key_value_heads",)) or heads) / heads
    layer = round(2 * hidden**2 * (1 + shared)) + 3 * hidden * inner
    embeddings = figures["vocabulary"] * hidden * (1 if values.get("tie_word_embeddings") else 2)
    return embeddings + figures["layers"] * layer
