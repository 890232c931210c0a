"""Settings of the online_dpo stage that suit the `chat_model` and `judge` fixtures."""

from pathlib import Path
from typing import Any

from tasks import online_dpo
from tasks.stage.config import parse
from tests.conftest import TRAINER
from tests.support.judges import ENDPOINT

PARAMS = Path("params/test/online_dpo.yaml")
GENERATION: dict[str, Any] = {"max_completion_length": 6, "temperature": 1.0, "lr_scheduler_type": "constant"}
STEPS: dict[str, Any] = {"max_steps": 4, "save_steps": 4}
WATCHED = {"grader": "length_at_most", "weight": 0.0, "options": {"characters": 8}}


def configured(**changes: Any) -> online_dpo.Config:
    settings = {k: v for k, v in (TRAINER | GENERATION | STEPS).items() if k != "max_length"}
    values: dict[str, Any] = {
        "seed": 1, "threads": 1, "launch": None, "max_left_out": 0.0, "max_cut": 0.0,
        "dataset": "prompts", "peft": None, "beta": 0.1,
        "loss_type": "sigmoid",
        "judge": {"endpoint": None, "device": "cpu", "dtype": "float32", "batch_size": 8, "chat_template_args": {}},
        "graders": {"brief": WATCHED}, "gold": "brief", "trainer": settings | changes.pop("trainer", {}),
    }  # fmt: skip
    if "endpoint" in changes:
        values["judge"] = {**values["judge"], "endpoint": ENDPOINT | changes.pop("endpoint")}
    return parse(PARAMS, values | changes, online_dpo.Config)
