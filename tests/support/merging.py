"""Small models to merge, and settings of the merge stage that suit them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tasks import merge
from tasks.stage.config import parse

MakeRun = Callable[..., Any]
Weights = dict[str, torch.Tensor]
SAMPLING = {"samples_per_prompt": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 6, "batch_size": 16}
VOWELS = {
    "dataset": "prompts", "rows": None, "grader": "regex", "weight": 1.0,
    "options": {"pattern": "[aeiou1357]", "mode": "search"},
}  # fmt: skip
METHODS: dict[str, Any] = {
    "linear": {"merge_method": "linear", "grid": {"weight": [[0.25, 0.75]]}},
    "slerp": {"merge_method": "slerp", "grid": {"t": [0.25]}},
    "task_arithmetic": {
        "merge_method": "task_arithmetic",
        "grid": {"weight": [[1.0, 0.5]], "lambda": [0.8], "normalize": [False]},
    },
    "ties": {"merge_method": "ties", "grid": {"weight": [[1.0, 1.0]], "density": [0.5], "normalize": [False]}},
    "dare_ties": {"merge_method": "dare_ties", "grid": {"weight": [[1.0, 1.0]], "density": [0.5]}},
    "search": {"merge_method": "linear", "grid": {"weight": [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]}},
}


def configured(**changes: Any) -> merge.Config:
    values = {
        "seed": 1, "threads": 1, "device": "cpu", "dtype": "float32", "methods": METHODS,
        "metrics": {"sums.vowel": VOWELS}, "sampling": SAMPLING, "chat_template_args": {}, "resamples": 200,
        "confidence": 0.95,
    }  # fmt: skip
    return parse(Path("params/test/merge.yaml"), values | changes, merge.Config)


def weights(folder: Path) -> Weights:
    return load_file(folder / "model.safetensors")


def build(root: Path, chat_model: Path) -> dict[str, Path]:
    """A base that answers each question otherwise, and two members that differ from it everywhere."""
    base = {name: tensor * 5 for name, tensor in weights(chat_model).items()}
    for seed, name in enumerate(("base", "one", "two")):
        torch.manual_seed(seed)
        shutil.copytree(chat_model, root / name)
        moved = {k: v + (0.05 * torch.randn_like(v) if seed else 0) for k, v in base.items()}
        save_file(moved, root / name / "model.safetensors", metadata={"format": "pt"})
    return {name: root / name for name in ("base", "one", "two")}


def merged(family: dict[str, Path], make_run: MakeRun, data: Path, name: str, **changes: Any) -> Path:
    run = make_run(name)
    inputs = {"model": family["base"], "data": data, "first": family["one"], "second": family["two"]}
    merge.main(configured(**changes), run, **inputs)
    out: Path = run.out
    return out


def differences(family: dict[str, Path], name: str) -> torch.Tensor:
    """What each member adds to a tensor of the base, shape (2, …)."""
    base = weights(family["base"])[name]
    return torch.stack([weights(family[member])[name] - base for member in ("one", "two")])
