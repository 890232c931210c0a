"""Settings of the grpo, kto and rejection stages that suit the `chat_model` and `sums_data` fixtures."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tasks import grpo, rejection
from tasks.stage.config import parse
from tests.conftest import TRAINER
from tests.support.rewards import LIKES_ODD, graders

STEPS = {"max_steps": 4, "save_steps": 2}
GENERATION = {"num_generations": 4, "max_completion_length": 8, "temperature": 1.0, "steps_per_generation": 1}


def configured(module: Any, dataset: str, trainer: dict[str, Any], **extra: Any) -> Any:
    settings = {k: v for k, v in (TRAINER | STEPS | trainer).items() if v is not None}
    common = {
        "seed": 1,
        "threads": 2,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": dataset,
        "peft": None,
        "trainer": settings,
    }
    return parse(Path("params/test.yaml"), common | extra, module.Config)


def moved(before: Path, after: Path) -> bool:
    return len(moved_tensors(before, after)) == len(load_file(before / "model.safetensors"))


def moved_tensors(before: Path, after: Path) -> set[str]:
    """Names of the tensors of a model that are other ones."""
    a, b = (load_file(folder / "model.safetensors") for folder in (before, after))
    return {name for name in a if not torch.equal(a[name], b[name])}


def grpo_config(**extra: Any) -> Any:
    values = {"graders": graders(odd=LIKES_ODD), "gold": "odd", "dynamic_sampling": 0, "curriculum": None}
    trainer = {**GENERATION, "beta": 0.01, "max_length": None, **extra.pop("trainer", {})}
    return configured(grpo, "prompts", trainer, **(values | extra))


def rejection_config(**extra: Any) -> Any:
    values = {
        "graders": graders(odd=LIKES_ODD), "rounds": 2, "prompts_per_round": 12, "accept": 1.0, "keep_per_prompt": 2,
        "restart": False, "hint": None, "replay": {}, "chat_template_args": {},
        "sampling": {"samples_per_prompt": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, "batch_size": 24},
    }  # fmt: skip
    return configured(rejection, "prompts", {"assistant_only_loss": True}, **(values | extra))
