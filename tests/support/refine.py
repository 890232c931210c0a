"""Settings of the refine stage that suit the `chat_model` and `sums_data` fixtures."""

from pathlib import Path
from typing import Any

from tasks import refine
from tasks.stage.config import parse
from tests.conftest import TRAINER

VOWELS = {"grader": "regex", "weight": 1.0, "options": {"pattern": "[aeiou1357]", "mode": "search"}}
"""A reward that a random model earns now and then; the tests' own texts earn it with 1, 3, 5 and 7."""


def configured(**changes: Any) -> Any:
    trainer = TRAINER | {"max_steps": 3, "save_steps": 1, "assistant_only_loss": True} | changes.pop("trainer", {})
    values = {
        "seed": 1, "threads": 2, "launch": None, "max_left_out": 0.0, "max_cut": 0.0,
        "dataset": "prompts", "peft": None,
        "rounds": 2, "prompts_per_round": 12, "chat_template_args": {}, "graders": {"vowel": VOWELS}, "accept": 1.0,
        "restart": False,
        "sampling": {"samples_per_prompt": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, "batch_size": 48},
        "turns": {"check": "Check it.", "revise": "Revise it.", "fault": "[a-m]"}, "revising_temperature": 1.0,
        "keep_per_prompt": 2, "keep_right": 1.0, "learn_turns": True, "replay": {"sft": 4}, "trainer": trainer,
        "comparison": {
            "prompts": 8, "temperature": 1.0, "top_p": 1.0, "resamples": 200, "confidence": 0.95, "examples": 1,
        },
    }  # fmt: skip
    return parse(Path("params/test.yaml"), values | changes, refine.Config)
