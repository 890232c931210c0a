"""Adapters merged by PEFT (`add_weighted_adapter`), before they are merged into the weights.

Low-rank factors are merged: fewer numbers, and no more of a member than its adapter holds. A member that was trained as
LoRA keeps its adapter beside its weights. Any other member, one trained as DoRA or in all weights included, is
approximated by a truncated singular value decomposition of each linear layer's difference from the model: the best
approximation of that rank (Eckart and Young 1936). Changes of embeddings and norms are left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.models.checks import names as listed
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.stage.errors import ConfigError, ModelError

PARAMETERS = {"weight", "rank", "combination_type", "density"}
"""Names of the parameters: `rank` is that of an adapter taken from a difference; the others are PEFT's."""
ADAPTER = "adapter"
"""Folder of the merged adapter inside a model folder."""


def merge(
    parameters: Mapping[str, Any], model: Path, members: Mapping[str, Path], out: Path, seed: int, dtype: str
) -> dict[str, float]:
    """Merge the members' adapters and write `model` with the merged one in its weights.

    Args:
        parameters: `PARAMETERS`; `weight` is a list with a value for each member.
        model: the folder that the members were made from.
        members: name to folder.
        out: model folder to write.
        seed: of the entries that DARE drops.
        dtype: of the weights written. The arithmetic is in float32.

    Returns:
        Name of each member to the share of its difference from `model`, in squares, that its adapter holds, 0 to 1.

    Raises:
        ConfigError: a parameter that is missing, or a value that PEFT refuses.
        ModelError: an adapter that is not the member's difference from `model`.
    """
    import torch
    from peft import get_peft_model

    for key in sorted({"weight", "rank", "combination_type"} - parameters.keys()):
        raise ConfigError(f"adapters cannot be merged without grid.{key}; give at least one value")
    base = load_causal_lm(model)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapted: Any = None
    shares: dict[str, float] = {}
    names = [f"member_{number}" for number in range(len(members))]  # PEFT takes `lora` for a prefix of its own
    for name, (member, folder) in zip(names, members.items(), strict=True):
        after = load_causal_lm(folder).state_dict()
        config = _config(folder, parameters["rank"])
        if adapted is None:
            adapted = get_peft_model(base, config, adapter_name=name)
        else:
            adapted.add_adapter(name, config)
        shares[member] = _fill(adapted, name, folder, {key: after[key] - before[key] for key in before})
    torch.manual_seed(seed)
    weight = parameters["weight"]
    try:
        adapted.add_weighted_adapter(
            names,
            weight if isinstance(weight, list) else [weight] * len(names),
            "merged",
            combination_type=parameters["combination_type"],
            density=parameters.get("density"),
            svd_full_matrices=False,
        )
    except (ValueError, TypeError) as e:
        raise ConfigError(f"PEFT refuses to merge adapters with {json.dumps(parameters)}: {e}") from e
    merged = adapted.merge_and_unload(adapter_names=["merged"])
    save_model(merged.to(getattr(torch, dtype)), load_tokenizer(model), out)
    return shares


def _config(folder: Path, rank: int) -> Any:
    """Return PEFT's config of a member's own adapter, or of one to take from its difference."""
    from peft import LoraConfig

    if _is_lora(folder):
        config = LoraConfig.from_pretrained(str(folder / ADAPTER))
        config.base_model_name_or_path = None  # PEFT warns where it is another folder's
        return config
    return LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")


def _is_lora(folder: Path) -> bool:
    """Whether the member has an adapter whose factors hold all of its change. DoRA's lengths are not in its factors."""
    path = folder / ADAPTER / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return config.get("peft_type") == "LORA" and not config["use_dora"]


def _fill(adapted: Any, name: str, folder: Path, difference: Mapping[str, Any]) -> float:
    """Give the adapter `name` its factors, and return the share of the difference, in squares, that they hold."""
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    own = _is_lora(folder)
    if own:
        path = folder / ADAPTER / "adapter_model.safetensors"
        result = set_peft_model_state_dict(adapted, load_file(path), adapter_name=name)
        missing = [key for key in result.missing_keys if f".{name}." in key]
        unexpected = result.unexpected_keys
        if missing or unexpected:
            fault = f"lacks {listed(missing)}" if missing else f"has no place for its {listed(unexpected)}"
            raise ModelError(f"{path}: {fault} by {ADAPTER}/adapter_config.json; make {folder} again")
    residuals = {key: delta.square().sum().item() for key, delta in difference.items()}
    total = sum(residuals.values())
    with torch.no_grad():
        for path, layer in adapted.named_modules():
            if name not in getattr(layer, "lora_A", {}):
                continue
            key = path.removeprefix("base_model.model.") + ".weight"
            if not own:
                rank = layer.lora_A[name].weight.shape[0]
                u, s, v = torch.linalg.svd(difference[key], full_matrices=False)
                root = s[:rank].sqrt()
                layer.lora_A[name].weight.zero_()[: len(root)] = root[:, None] * v[:rank]
                layer.lora_B[name].weight.zero_()[:, : len(root)] = u[:, :rank] * root
            residuals[key] = (difference[key] - layer.get_delta_weight(name)).square().sum().item()
    share = 1 - sum(residuals.values()) / total if total else 1.0
    if own and share < 0.5:
        raise ModelError(
            f"{folder / ADAPTER}: holds {share:.0%} of what parts {folder} from the model; take a member that was made "
            f"from that model by this adapter"
        )
    return round(share, 6)
