"""Settings of the ppo stage and of its trainer that suit the `chat_model` and `reward_model` fixtures."""

from pathlib import Path
from typing import Any

from tasks import ppo
from tasks.stage.config import parse

NUMBERS: dict[str, Any] = {
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "kl_coef": 0.01,
    "kl_target": None,
    "kl_horizon": 1000.0,
    "value_clip": 0.2,
    "value_coef": 0.1,
    "value_learning_rate": 2e-3,
    "missing_eos_penalty": 0.0,
    "whiten_advantages": True,
}
TRAINER: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "max_completion_length": 4,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "constant",
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "logging_steps": 1,
}
LOGGED = {
    "reward", "kl", "entropy", "clip_fraction", "approx_kl", "explained_variance", "value_loss", "policy_loss",
    "completions/mean_length", "kl_coef", "eos_rate",
}  # fmt: skip


def configured(peft: dict[str, Any] | None = None, trainer: dict[str, Any] | None = None, **changes: Any) -> ppo.Config:
    values = {
        "seed": 1,
        "threads": 2,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": "prompts",
        "peft": peft,
        "reward_weight": 1.0,
        "graders": {"helpful": {"grader": "sums", "weight": 0.0, "options": {"metric": "helpful"}}},
        "gold": "helpful",
        "ppo": NUMBERS,
        "trainer": TRAINER | {"max_steps": 2, "save_steps": 2} | (trainer or {}),
    }
    return parse(Path("params/test.yaml"), values | changes, ppo.Config)
