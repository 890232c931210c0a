"""Settings of the methods that draw answers and grade them: grpo, ppo, rejection."""

from typing import Any

from flows.authoring import choices
from flows.authoring.choices import Machine, Training
from flows.authoring.graph import Planned
from flows.authoring.model import Model
from flows.authoring.parts import drawn, grader, head, trainer, weights
from flows.authoring.rows import Plan
from flows.authoring.yaml_text import line, section


def groups(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    """Write the settings of grpo."""
    tokens, unit = drawn(plan, model)
    accumulation = max(1, 32 // max(8, chosen.batch))
    own = {
        "max_length": None, "eval_strategy": None, "per_device_eval_batch_size": None,
        "per_device_train_batch_size": max(8, chosen.batch), "gradient_accumulation_steps": accumulation,
        "max_steps": min(chosen.steps, 60 if not here.gpu else 400), "num_generations": 8,
        "steps_per_generation": accumulation, "max_completion_length": tokens, "temperature": 1.0,
        "lr_scheduler_type": "constant_with_warmup", "beta": 0.001, "epsilon": 0.2, "epsilon_high": 0.28,
        "loss_type": "dr_grpo", "scale_rewards": "none",
    }  # fmt: skip
    comments = {
        "per_device_train_batch_size": "answers at a time", "num_generations": "answers a prompt",
        "max_completion_length": unit, "beta": "weight of the KL to the reference", "loss_type": "no bias by length",
        "scale_rewards": "no bias by difficulty", "epsilon_high": "DAPO's clip-higher",
    }  # fmt: skip
    return [
        *head(planned, here, chosen, "prompts"), *weights(chosen),
        *section("graders", grader(plan), {}, "grader by name; weight 0 is tracked, not optimised"),
        line("gold", "right"), line("dynamic_sampling", 1, "most rounds in which groups of equal rewards are replaced"),
        line("curriculum", None, "column; the easy prompts first. null: shuffled"),
        *trainer(planned, model, here, chosen, own, comments),
    ]  # fmt: skip


def ppo(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    """Write the settings of ppo."""
    tokens, unit = drawn(plan, model)
    rate = choices.learning_rate("ppo", model, full=chosen.full)
    ppo = {
        "gamma": 1.0, "gae_lambda": 0.95, "kl_coef": 0.15, "kl_target": None, "kl_horizon": 10000, "value_clip": 0.2,
        "value_coef": 0.1, "value_learning_rate": 5 * rate, "missing_eos_penalty": 1.0, "whiten_advantages": True,
    }  # fmt: skip
    said = {
        "gamma": "discount per token", "kl_coef": "score per nat away from the reference",
        "kl_target": "nats per answer that an adaptive kl_coef aims at; null: fixed", "value_clip": "score",
        "missing_eos_penalty": "score",
    }  # fmt: skip
    own = {
        "max_length": None, "eval_strategy": None, "per_device_eval_batch_size": None,
        "gradient_accumulation_steps": None, "per_device_train_batch_size": max(8, chosen.batch),
        "max_steps": min(chosen.steps, 60 if not here.gpu else 400), "steps_per_generation": 1, "num_iterations": 2,
        "max_completion_length": tokens, "temperature": 1.0, "lr_scheduler_type": "constant_with_warmup",
        "epsilon": 0.2, "max_grad_norm": 1.0, "disable_dropout": True,
    }  # fmt: skip
    graders = grader(plan)
    graders["right"]["weight"] = 0.0
    return [
        *head(planned, here, chosen, "prompts"), *weights(chosen),
        line("reward_weight", 1.0, "of the reward model's score; 0 only tracks it"),
        *section("graders", graders, {}, "grader by name; weight 0 is tracked, not optimised"), line("gold", "right"),
        *section("ppo", ppo, said),
        *trainer(planned, model, here, chosen, own, {"max_completion_length": unit}),
    ]  # fmt: skip


def rejection(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    """Write the settings of rejection sampling."""
    tokens, unit = drawn(plan, model)
    rows = plan.lengths["prompts"].rows
    sampling = {
        "samples_per_prompt": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": tokens, "batch_size": 32,
    }  # fmt: skip
    own: dict[str, Any] = {"packing": False, "assistant_only_loss": True, "per_device_eval_batch_size": None}
    own["max_steps"] = min(chosen.steps, 100)
    return [
        *head(planned, here, chosen, "prompts"), *weights(chosen), line("rounds", 2),
        line("prompts_per_round", min(rows, 200 if not here.gpu else 2000)),
        line("sampling", sampling, f"{unit}; answers at once"),
        line("chat_template_args", {}, "passed to the chat template when sampling"),
        *section("graders", grader(plan), {}),
        line("accept", 1.0, "weighted sum of the graders that an answer must reach"), line("keep_per_prompt", 1),
        line("restart", False, "go on from the last round's model"), line("hint", None),
        line("replay", {}, "rows of other sets mixed in each round"),
        *trainer(planned, model, here, chosen, own, {"max_steps": "each round"}),
    ]  # fmt: skip
