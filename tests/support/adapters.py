"""Settings of the adapt stage that suit the `chat_model` fixture."""

from pathlib import Path
from typing import Any

from tasks import adapt
from tasks.stage.config import parse
from tests.conftest import TRAINER

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
METHODS: dict[str, Any] = {
    "lora": {"adapter": "LoraConfig", "learning_rate": 3e-3, "peft": LORA},
    "dora": {"adapter": "LoraConfig", "learning_rate": 3e-3, "peft": LORA | {"use_dora": True}},
    "prompt": {"adapter": "PromptTuningConfig", "learning_rate": 0.1, "peft": {"num_virtual_tokens": 8}},
    "prefix": {"adapter": "PrefixTuningConfig", "learning_rate": 0.1, "peft": {"num_virtual_tokens": 8}},
}


def values(**changes: Any) -> dict[str, Any]:
    trainer = {k: v for k, v in TRAINER.items() if k != "learning_rate"}
    trainer |= {"assistant_only_loss": True, "max_steps": 12, "save_steps": 4, "packing": False}
    found: dict[str, Any] = {
        "seed": 1,
        "threads": 1,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": "sft",
        "methods": METHODS,
    }
    return found | changes | {"trainer": trainer | changes.get("trainer", {})}


def configured(**changes: Any) -> adapt.Config:
    return parse(Path("params/test.yaml"), values(**changes), adapt.Config)
