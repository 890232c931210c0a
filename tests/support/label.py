"""Settings of the label stage that suit the `chat_model`, `judge` and `prompts` fixtures."""

from pathlib import Path
from typing import Any

from tasks import label
from tasks.stage.config import parse

PARAMS = Path("params/test/label.yaml")
LABEL: dict[str, Any] = {
    "seed": 1,
    "threads": 2,
    "dataset": "prompts",
    "prompts": {"train": 12, "validation": 4},
    "sampling": {
        "samples_per_prompt": 3,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": 8,
        "batch_size": 12,
    },
    "device": "cpu",
    "dtype": "float32",
    "chat_template_args": {},
    "judge_batch_size": 8,
    "endpoint": None,
    "gold": {"grader": "sums", "metrics": ["exact_match", "helpful"]},
    "resamples": 100,
    "confidence": 0.95,
    "examples": 5,
}


def config(**changes: Any) -> label.Config:
    return parse(PARAMS, LABEL | changes, label.Config)
