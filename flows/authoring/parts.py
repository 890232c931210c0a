"""Parts of settings that several stages share, as YAML with reasons."""

from typing import Any

from flows.authoring import choices
from flows.authoring.choices import Machine, Training
from flows.authoring.graph import Planned
from flows.authoring.model import Model
from flows.authoring.rows import Plan
from flows.authoring.yaml_text import line, section

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
CLASSES = {
    "sft": "trl.SFTConfig", "adapt": "trl.SFTConfig, without the learning rate", "dpo": "trl.DPOConfig",
    "kto": "trl.KTOConfig", "reward": "trl.RewardConfig", "grpo": "trl.GRPOConfig", "ppo": "trl.RLOOConfig",
    "rejection": "trl.SFTConfig, each round", "distill": "trl.SFTConfig", "prune": "trl.SFTConfig, of the healing",
}  # fmt: skip
"""Method to the class that takes its `trainer:`."""


def head(planned: Planned, here: Machine, chosen: Training, dataset: str) -> list[str]:
    """Write what every stage that trains has: seed, threads, launcher, data set, shares of rows."""
    launch = "accelerate launch --config_file infra/accelerate/one_gpu.yaml -m" if here.gpu else None
    return [
        line("seed", 1),
        line("threads", here.threads, "threads of torch and BLAS; changes the bits"),
        line("launch", launch),
        line("dataset", dataset, "set of the data artifact"),
        line("max_left_out", chosen.max_left_out, "share of a split's rows that may be too long to learn anything of"),
        line("max_cut", chosen.max_cut, "share of a split's rows that may be learnt in part, the rest being cut off"),
    ]


def weights(chosen: Training, *, scored: bool = False) -> list[str]:
    """Write which weights learn; with `scored`, a new head that learns whole beside a LoRA."""
    if chosen.full:
        return [line("peft", None, f"all weights learn: {chosen.why_weights}")]
    extra = {"modules_to_save": ["score"]} if scored else {}
    return [line("peft", {**LORA, **extra}, f"LoRA: {chosen.why_weights}")]


def trainer(
    planned: Planned, model: Model, here: Machine, chosen: Training, own: dict[str, Any], comments: dict[str, str]
) -> list[str]:
    """Write `trainer:`; `own` are the keys of the method, of which a value of None takes a shared key out."""
    method = planned.method
    rate = choices.learning_rate(method, model, full=chosen.full)
    steps = own.get("max_steps", chosen.steps)
    logged = max(1, min(10, steps // 20))
    values: dict[str, Any] = {
        "max_steps": chosen.steps,
        "per_device_train_batch_size": chosen.batch,
        "per_device_eval_batch_size": chosen.batch,
        "gradient_accumulation_steps": chosen.accumulation,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, steps // 20),
        "max_length": chosen.length,
        **own,
        "gradient_checkpointing": chosen.checkpointing,
        "bf16": here.gpu,
        **({} if here.gpu else {"use_cpu": True}),
        "logging_steps": logged,
        "eval_strategy": "no",
        "save_steps": logged * max(1, steps // (4 * logged)),
        "save_total_limit": 1,
    }
    said = {
        "max_steps": chosen.why_steps,
        "per_device_train_batch_size": chosen.why_batch,
        "learning_rate": f"usual for {'all weights' if chosen.full else 'LoRA'} of a model of this size",
        "max_length": chosen.why_length,
        "gradient_checkpointing": "activations are computed twice, to save memory" if chosen.checkpointing else "",
        **comments,
    }
    kept = {key: value for key, value in values.items() if value is not None}
    return section("trainer", kept, said, CLASSES[method])


def grader(plan: Plan) -> dict[str, Any]:
    """Give the grader of the questions: by number where all answers are numbers, else by text."""
    numeric = all(source.numeric for source, _ in plan.sets["prompts"])
    return {"right": {"grader": "numeric" if numeric else "correct", "weight": 1.0, "options": {}}}


def drawn(plan: Plan, model: Model) -> tuple[int, str]:
    """Give the tokens of an answer that is drawn, and their unit."""
    return choices.reply_tokens(plan.lengths["prompts"], model, most=256) + 24, "tokens of an answer"
