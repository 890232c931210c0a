"""Settings of the sft, dpo and reward stages that suit the `chat_model` and `sums_data` fixtures."""

from pathlib import Path
from typing import Any

from tasks import reward, sft
from tasks.stage.config import parse
from tests.conftest import TRAINER

STEPS = {"max_steps": 4, "save_steps": 2}


def configured(module: Any, peft: dict[str, Any] | None = None, **trainer: Any) -> Any:
    extra = {"calibration_bins": 4, "bootstrap_samples": 200} if module is reward else {}
    dataset = "sft" if module is sft else "preferences"
    values = {
        "seed": 1,
        "threads": 2,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": dataset,
        "peft": peft,
        "trainer": TRAINER | STEPS | trainer,
        **extra,
    }
    return parse(Path("params/test.yaml"), values, module.Config)
