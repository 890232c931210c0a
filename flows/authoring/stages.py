"""Settings of the stages that train or shrink a model, as YAML with reasons. One function a method that is special."""

from collections.abc import Callable
from typing import Any

from flows.authoring import choices, drawing, parts, shrinking
from flows.authoring.choices import Machine, Training
from flows.authoring.graph import ROWS, Planned
from flows.authoring.model import Model
from flows.authoring.rows import Plan
from flows.authoring.yaml_text import line, section

REFERENCED = ("dpo", "kto", "grpo", "ppo")
"""Methods that keep a second copy of the model where all weights learn."""
PAIRED = ("dpo", "reward")
"""Methods of which each row has two replies."""


def settings(planned: Planned, model: Model, plan: Plan, here: Machine) -> str:
    """Write the settings file of one model."""
    lengths = plan.lengths[ROWS[planned.method]]
    chosen = choices.training(
        model, lengths, here, pairs=planned.method in PAIRED, reference=planned.method in REFERENCED
    )
    writer = _SPECIAL.get(planned.method, _trained)
    return "\n".join(writer(planned, model, plan, here, chosen)) + "\n"


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
        own = {"beta": 0.1, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
        comments = {
            "beta": "how near the model stays to its parent",
            "loss_weights": "as much SFT keeps the chosen replies likely (arXiv:2404.19733)",
        }
    elif method == "kto":
        own = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    else:
        extra = [line("calibration_bins", 5), line("bootstrap_samples", 2000)]
    opening = [
        *parts.head(planned, here, chosen, ROWS[method]),
        *parts.weights(chosen, scored=method == "reward"),
        *extra,
    ]
    return [*opening, *parts.trainer(planned, model, here, chosen, own, comments)]


def _adapted(planned: Planned, model: Model, plan: Plan, here: Machine, chosen: Training) -> list[str]:
    rate = choices.learning_rate("adapt", model, full=False)
    entry = {"adapter": "LoraConfig", "learning_rate": rate, "peft": parts.LORA}
    opening = [*parts.head(planned, here, chosen, "sft"), *section("methods", {"lora": entry}, {}, "adapter of peft")]
    own = {"learning_rate": None, "packing": False, "assistant_only_loss": True}
    return [*opening, *parts.trainer(planned, model, here, chosen, own, {})]


_SPECIAL: dict[str, Callable[[Planned, Model, Plan, Machine, Training], list[str]]] = {
    "adapt": _adapted, "grpo": drawing.groups, "ppo": drawing.ppo, "rejection": drawing.rejection,
    "distill": shrinking.distilled, "prune": shrinking.pruned, "quantize": shrinking.quantized,
    "merge": shrinking.merged,
}  # fmt: skip
