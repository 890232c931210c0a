"""Settings of the methods that make a smaller model, or one of two: distill, prune, quantize, merge."""

from typing import Any

from flows.authoring import choices
from flows.authoring.choices import Machine, Training
from flows.authoring.graph import Planned
from flows.authoring.model import Model
from flows.authoring.parts import drawn, grader, head, trainer
from flows.authoring.rows import Plan
from flows.authoring.yaml_text import line, section


def distilled(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    """Write the settings of distill."""
    kept = list(range(0, model.layers, 2))
    method = {"teacher_weight": 0.5, "beta": 0.0, "temperature": 1.0, "on_policy": None, "answers": None}
    said = {"logits": "share of the divergence in the loss; forward KL"}
    return [
        *head(planned, here, chosen, "sft"),
        *section("student", {"layers": kept, "largest_share": 0.9}, {"layers": f"kept, of {model.layers}"}),
        *section("methods", {"logits": method}, said),
        *trainer(planned, model, here, chosen, {"packing": False, "assistant_only_loss": True}, {}),
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


def pruned(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    """Write the settings of prune."""
    modifier = {"sparsity": 0.5, "mask_structure": "0:0", "targets": ["Linear"], "ignore": ["re:.*lm_head"]}
    wanda = {"modifiers": {"WandaPruningModifier": modifier}, "magnitude": None, "drop_layers": None, "heal": True}
    shared = head(planned, here, chosen, "sft")
    return [
        *shared[:3], *section("methods", {"wanda": wanda}, {}, "half of the weights of each matrix become zero"),
        *_calibration(chosen), *_held_out(here, plan, model, batch=True), *section("graders", grader(plan), {}),
        *shared[3:], line("teacher_weight", 0.0, "share of the dense model's divergence in the loss"),
        *trainer(planned, model, here, chosen, {"packing": False, "assistant_only_loss": True}, {}),
    ]  # fmt: skip


def quantized(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    """Write the settings of quantize."""
    modifier = {"targets": ["Linear"], "ignore": ["re:.*lm_head"], "scheme": "W8A8"}
    entry = {"modifiers": {"QuantizationModifier": modifier}}
    return [
        line("seed", 1), line("threads", here.threads), line("device", here.device),
        *section("methods", {"w8a8": entry}, {}, "weights by channel, inputs by token, in 8 bits"),
        *_calibration(chosen), *_held_out(here, plan, model, batch=False),
    ]  # fmt: skip


def merged(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    """Write the settings of merge."""
    tokens, unit = drawn(plan, model)
    grid = {"weight": [[0.3, 0.7], [0.5, 0.5], [0.7, 0.3]]}
    metric = {"dataset": "prompts", "rows": None, **grader(plan)["right"]}
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
