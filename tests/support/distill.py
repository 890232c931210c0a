"""Settings of the distill stage that suit a small model and the `sums_data` fixture."""

from pathlib import Path
from typing import Any

from tasks import distill
from tasks.stage.config import parse
from tests.conftest import TRAINER

PLAIN: dict[str, Any] = {"teacher_weight": 1.0, "beta": 0.0, "temperature": 1.0, "on_policy": None, "answers": None}
SAMPLING = {"samples_per_prompt": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 24, "batch_size": 16}
ASKED: dict[str, Any] = {"prompts": {"sft": 16, "prompts": 16}, "sampling": SAMPLING, "chat_template_args": {}}
METHODS: dict[str, Any] = {
    "alone": PLAIN | {"teacher_weight": 0.0},
    "logits": PLAIN,
    "on_policy": PLAIN | {"on_policy": {"share": 0.5, "temperature": 1.0, "max_new_tokens": 8}},
    "answers": PLAIN | {"teacher_weight": 0.0, "answers": ASKED},
}


def configured(changes: dict[str, Any] | None = None, **fields: Any) -> distill.Config:
    trainer = TRAINER | {"assistant_only_loss": True, "max_steps": 8, "save_steps": 4, "packing": False}
    values: dict[str, Any] = {
        "seed": 1, "threads": 1, "launch": None, "max_left_out": 0.0, "max_cut": 0.0,
        "dataset": "sft", "student": {"layers": [1], "largest_share": 0.8},
        "methods": METHODS, **fields, "trainer": trainer | (changes or {}),
    }  # fmt: skip
    return parse(Path("params/test.yaml"), values, distill.Config)
