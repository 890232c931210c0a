"""Settings of the stages that train or shrink a model, as YAML with reasons. One function a method that is special."""

from collections.abc import Callable
from typing import Any

from flows.authoring import choices
from flows.authoring.choices import Machine, Training
from flows.authoring.graph import ROWS, Planned
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
REFERENCED = ("dpo", "kto", "grpo", "ppo")
"""Methods that keep a second copy of the model where all weights learn."""
PAIRED = ("dpo", "reward")
ANSWERING = ("grpo", "ppo", "rejection")
"""Methods that draw answers."""


def settings(planned: Planned, model: Model, plan: Plan, here: Machine) -> str:
    """Write the settings file of one model."""
    lengths = plan.lengths[ROWS[planned.method]]
    chosen = choices.training(
        model, lengths, here, pairs=planned.method in PAIRED, reference=planned.method in REFERENCED
    )
    writer = _SPECIAL.get(planned.method, _trained)
    return "\n".join(writer(planned, model, plan, here, chosen)) + "\n"


def _head(planned: Planned, here: Machine, chosen: Training, dataset: str) -> list[str]:
    launch = "accelerate launch --config_file infra/accelerate/one_gpu.yaml -m" if here.gpu else None
    return [
        line("seed", 1),
        line("threads", here.threads, "threads of torch and BLAS; changes the bits"),
        line("launch", launch),
        line("dataset", dataset, "set of the data artifact"),
        line("max_left_out", chosen.max_left_out, "share of a split's rows that may be too long to learn anything of"),
        line("max_cut", chosen.max_cut, "share of a split's rows that may be learnt in part, the rest being cut off"),
    ]


def _weights(chosen: Training, *, head: bool = False) -> list[str]:
    if chosen.full:
        return [line("peft", None, f"all weights learn: {chosen.why_weights}")]
    extra = {"modules_to_save": ["score"]} if head else {}
    return [line("peft", {**LORA, **extra}, f"LoRA: {chosen.why_weights}")]


def _trainer(
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


def _trained(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    """Settings of a method that learns from the rows as they are: sft, dpo, kto, reward."""
    method = planned.method
    own: dict[str, Any] = {}
    comments = {}
    extra: list[str] = []
    if method == "sft":
        own = {"packing": False, "assistant_only_loss": True}
        comments = {"assistant_only_loss": "nothing is learnt of what the user says"}
    elif method == "dpo":
        own = {"beta": 0.1, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}
        comments = {
            "beta": "how near the model stays to its parent",
            "loss_weights": "a little SFT keeps the chosen likely",
        }
    elif method == "kto":
        own = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    else:
        extra = [line("calibration_bins", 5), line("bootstrap_samples", 2000)]
    head = [*_head(planned, here, chosen, ROWS[method]), *_weights(chosen, head=method == "reward"), *extra]
    return [*head, *_trainer(planned, model, here, chosen, own, comments)]


def _grader(plan: Plan) -> dict[str, Any]:
    numeric = all(source.numeric for source, _ in plan.sets["prompts"])
    return {"right": {"grader": "numeric" if numeric else "correct", "weight": 1.0, "options": {}}}


def _drawn(plan: Plan, model: Model) -> tuple[int, str]:
    return choices.reply_tokens(plan.lengths["prompts"], model, most=256) + 24, "tokens of an answer"


def _adapted(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    rate = choices.learning_rate("adapt", model, full=False)
    entry = {"adapter": "LoraConfig", "learning_rate": rate, "peft": LORA}
    head = [*_head(planned, here, chosen, "sft"), *section("methods", {"lora": entry}, {}, "adapter of peft")]
    own = {"learning_rate": None, "packing": False, "assistant_only_loss": True}
    return [*head, *_trainer(planned, model, here, chosen, own, {})]


def _groups(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    tokens, unit = _drawn(plan, model)
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
        *_head(planned, here, chosen, "prompts"), *_weights(chosen),
        *section("graders", _grader(plan), {}, "grader by name; weight 0 is tracked, not optimised"),
        line("gold", "right"), line("dynamic_sampling", 1, "most rounds in which groups of equal rewards are replaced"),
        line("curriculum", None, "column; the easy prompts first. null: shuffled"),
        *_trainer(planned, model, here, chosen, own, comments),
    ]  # fmt: skip


def _ppo(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    tokens, unit = _drawn(plan, model)
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
    graders = _grader(plan)
    graders["right"]["weight"] = 0.0
    return [
        *_head(planned, here, chosen, "prompts"), *_weights(chosen),
        line("reward_weight", 1.0, "of the reward model's score; 0 only tracks it"),
        *section("graders", graders, {}, "grader by name; weight 0 is tracked, not optimised"), line("gold", "right"),
        *section("ppo", ppo, said),
        *_trainer(planned, model, here, chosen, own, {"max_completion_length": unit}),
    ]  # fmt: skip


def _rejection(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    tokens, unit = _drawn(plan, model)
    rows = plan.lengths["prompts"].rows
    sampling = {
        "samples_per_prompt": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": tokens, "batch_size": 32,
    }  # fmt: skip
    own: dict[str, Any] = {"packing": False, "assistant_only_loss": True, "per_device_eval_batch_size": None}
    own["max_steps"] = min(chosen.steps, 100)
    return [
        *_head(planned, here, chosen, "prompts"), *_weights(chosen), line("rounds", 2),
        line("prompts_per_round", min(rows, 200 if not here.gpu else 2000)),
        line("sampling", sampling, f"{unit}; answers at once"),
        line("chat_template_args", {}, "passed to the chat template when sampling"),
        *section("graders", _grader(plan), {}),
        line("accept", 1.0, "weighted sum of the graders that an answer must reach"), line("keep_per_prompt", 1),
        line("restart", False, "go on from the last round's model"), line("hint", None),
        line("replay", {}, "rows of other sets mixed in each round"),
        *_trainer(planned, model, here, chosen, own, {"max_steps": "each round"}),
    ]  # fmt: skip


def _distilled(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    kept = list(range(0, model.layers, 2))
    method = {"teacher_weight": 0.5, "beta": 0.0, "temperature": 1.0, "on_policy": None, "answers": None}
    said = {"logits": "share of the divergence in the loss; forward KL"}
    return [
        *_head(planned, here, chosen, "sft"),
        *section("student", {"layers": kept, "largest_share": 0.9}, {"layers": f"kept, of {model.layers}"}),
        *section("methods", {"logits": method}, said),
        *_trainer(planned, model, here, chosen, {"packing": False, "assistant_only_loss": True}, {}),
    ]  # fmt: skip


def _held_out(here: Machine, plan: Plan, model: Model, *, batch: bool) -> list[str]:
    values: dict[str, Any] = {
        "answers": "sft", "answer_rows": 100, "prompts": "prompts" if "prompts" in plan.sets else None,
        "prompt_rows": 100, "max_new_tokens": choices.reply_tokens(plan.lengths["sft"], model, most=128),
        **({"batch_size": 32} if batch else {}), "chat_template_args": {},
    }  # fmt: skip
    return section("held_out", values, {"max_new_tokens": "tokens"}, "validation rows that are measured")


def _calibration(chosen: Training) -> list[str]:
    values = {"dataset": "sft", "rows": 128, "max_length": chosen.length}
    return section("calibration", values, {"max_length": "tokens"}, "training rows that are looked at")


def _pruned(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    modifier = {"sparsity": 0.5, "mask_structure": "0:0", "targets": ["Linear"], "ignore": ["re:.*lm_head"]}
    wanda = {"modifiers": {"WandaPruningModifier": modifier}, "magnitude": None, "drop_layers": None, "heal": True}
    shared = _head(planned, here, chosen, "sft")
    return [
        *shared[:3], *section("methods", {"wanda": wanda}, {}, "half of the weights of each matrix become zero"),
        *_calibration(chosen), *_held_out(here, plan, model, batch=True), *section("graders", _grader(plan), {}),
        *shared[3:], line("teacher_weight", 0.0, "share of the dense model's divergence in the loss"),
        *_trainer(planned, model, here, chosen, {"packing": False, "assistant_only_loss": True}, {}),
    ]  # fmt: skip


def _quantized(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    modifier = {"targets": ["Linear"], "ignore": ["re:.*lm_head"], "scheme": "W8A8"}
    entry = {"modifiers": {"QuantizationModifier": modifier}}
    return [
        line("seed", 1), line("threads", here.threads), line("device", here.device),
        *section("methods", {"w8a8": entry}, {}, "weights by channel, inputs by token, in 8 bits"),
        *_calibration(chosen), *_held_out(here, plan, model, batch=False),
    ]  # fmt: skip


def _merged(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    tokens, unit = _drawn(plan, model)
    grid = {"weight": [[0.3, 0.7], [0.5, 0.5], [0.7, 0.3]]}
    metric = {"dataset": "prompts", "rows": None, **_grader(plan)["right"]}
    sampling = {
        "samples_per_prompt": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": tokens, "batch_size": 32,
    }  # fmt: skip
    return [
        line("seed", 1), line("threads", here.threads), line("device", here.device, "where candidates answer"),
        line("dtype", "bfloat16" if here.gpu else "float32", "of the weights; merged in float32"),
        *section("methods", {"linear": {"merge_method": "linear", "grid": grid}}, {}, "weights of each that are tried"),
        *section("metrics", {"answers.exact_match": metric}, {}, "by which the best is chosen"),
        line("sampling", sampling, unit), line("chat_template_args", {}), line("resamples", 2000),
        line("confidence", 0.95),
    ]  # fmt: skip


_SPECIAL: dict[str, Callable[[Planned, Model, Plan, Machine, Training], list[str]]] = {
    "adapt": _adapted, "grpo": _groups, "ppo": _ppo, "rejection": _rejection, "distill": _distilled,
    "prune": _pruned, "quantize": _quantized, "merge": _merged,
}  # fmt: skip
