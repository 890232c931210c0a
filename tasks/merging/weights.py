"""Merging of weights by mergekit (Goddard et al., arXiv:2403.13257), and the check that models may be merged.

Merging is arithmetic on weights of the same name, so it is only for models of one architecture, one set of shapes and
one tokenizer; all of it is checked before mergekit starts, which would name the difference late or not at all.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.models.folder import check_folder
from tasks.stage.errors import ConfigError, ModelError

PASSING = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
"""Keys of `config.json` that do not change the meaning of the weights."""


def check_alike(model: Path, members: Mapping[str, Path]) -> None:
    """Refuse members that cannot be merged with `model`, naming the first difference.

    Raises:
        ModelError: another architecture, tensor, shape, setting, tokenizer or chat template; or a folder that
            `check_folder` refuses.
    """
    for folder in (model, *members.values()):
        check_folder(folder)
    for folder in members.values():
        for difference in (_config, _tensors, _tokens, _settings):
            if fault := difference(model, folder):
                raise ModelError(f"{folder} cannot be merged with {model}: {fault}; take members of one family")


def parameter_names(method: str) -> set[str]:
    """Return the parameters that a merge method of mergekit takes."""
    from mergekit.merge_methods import registry

    return {parameter.name for parameter in registry.get(method).spec.parameters}


def merge(
    method: str,
    parameters: Mapping[str, Any],
    model: Path,
    members: Mapping[str, Path],
    out: Path,
    seed: int,
    dtype: str,
) -> None:
    """Merge `members` into a model folder with the config and the tokenizer of `model`.

    Args:
        method: merge method of mergekit.
        parameters: each a value, or a list with a value for each member.
        model: the folder that the members were made from; the task vectors of a method that knows them start there.
        members: name to folder, in order. SLERP goes from the first to the second.
        out: folder to write.
        seed: of the entries that DARE drops.
        dtype: of the weights written. The arithmetic is in float32: members differ by less than bfloat16 resolves.

    Raises:
        ConfigError: values that mergekit refuses.
    """
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    settings = {
        "merge_method": method,
        "models": [
            {"model": str(folder), "parameters": {k: v[i] for k, v in parameters.items() if isinstance(v, list)}}
            for i, folder in enumerate(members.values())
        ],
        "parameters": {k: v for k, v in parameters.items() if not isinstance(v, list)},
        "dtype": "float32",
        "out_dtype": dtype,
    }
    if base := _base(method, model, members):
        settings["base_model"] = str(base)
    options = MergeOptions(copy_tokenizer=True, quiet=True, random_seed=seed, write_model_card=False, device="cpu")
    shutil.rmtree(out, ignore_errors=True)
    logging.disable(logging.WARNING)  # of tied weights, of a base that is no member, of its own old spelling of dtype
    try:
        run_merge(MergeConfiguration.model_validate(settings), str(out), options)
    except (ValueError, RuntimeError) as e:
        raise ConfigError(f"mergekit refuses {method} with {json.dumps(parameters)}: {e}") from e
    finally:
        logging.disable(logging.NOTSET)
    shutil.copyfile(model / "config.json", out / "config.json")  # mergekit takes that of whichever member comes first


def _base(method: str, model: Path, members: Mapping[str, Path]) -> Path | None:
    """Return the model that a method starts from: none, the first member if it takes two, else the members' parent."""
    from mergekit.merge_methods import registry
    from mergekit.merge_methods.base import BasePolicy

    contract = registry.get(method).spec.contract
    if contract.base != BasePolicy.REQUIRED:
        return None
    return next(iter(members.values())) if contract.max_inputs == 2 else model


def _config(model: Path, member: Path) -> str | None:
    """Say how the architectures differ, or return None."""
    ours, theirs = (_read(folder)["architectures"] for folder in (model, member))
    return f"it is a {', '.join(theirs)}, not a {', '.join(ours)}" if ours != theirs else None


def _settings(model: Path, member: Path) -> str | None:
    """Name the first setting that differs, or return None."""
    ours, theirs = _read(model), _read(member)
    for key in sorted((ours.keys() | theirs.keys()) - PASSING):
        if ours.get(key) != theirs.get(key):
            return f"config.json has {key} {theirs.get(key)!r}, not {ours.get(key)!r}"
    return None


def _tensors(model: Path, member: Path) -> str | None:
    """Name the first tensor that is missing or of another shape, or return None."""
    ours, theirs = _shapes(model), _shapes(member)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            return f"it has no tensor {name}"
        if name not in ours:
            return f"it has a tensor {name} besides"
        if ours[name] != theirs[name]:
            return f"{name} is of shape {theirs[name]}, not {ours[name]}"
    return None


def _tokens(model: Path, member: Path) -> str | None:
    """Name the first difference of vocabulary, tokenizer rules or chat template, or return None."""
    from tokenizers import Tokenizer

    ours, theirs = (
        {number: token for token, number in Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().items()}
        for folder in (model, member)
    )
    for number in sorted(ours.keys() | theirs.keys()):
        if ours.get(number) != theirs.get(number):
            return f"token {number} is {theirs.get(number)!r}, not {ours.get(number)!r}"
    rules = [json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) for folder in (model, member)]
    for key in sorted(rules[0].keys() - {"truncation", "padding"}):
        if rules[0][key] != rules[1].get(key):
            return f"tokenizer.json has other rules under '{key}'"
    templates = [(folder / "chat_template.jinja").read_text(encoding="utf-8") for folder in (model, member)]
    return "chat_template.jinja is another" if templates[0] != templates[1] else None


def _shapes(folder: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return shapes


def _read(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config
