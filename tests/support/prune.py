"""Settings of the prune stage that suit the `chat_model` and `sums_data` fixtures."""

from typing import Any

from tasks import prune
from tasks.stage.config import parse, read_yaml
from tests.conftest import REPO, TRAINER


def configured(**changed: Any) -> prune.Config:
    """The tiny recipe's own settings, for a few rows and steps."""
    path = REPO / "params/tiny/prune.yaml"
    values = read_yaml(path)
    values["calibration"]["rows"] = 16
    values["held_out"] |= {"answer_rows": 8, "prompt_rows": 4, "max_new_tokens": 8}
    values["trainer"] = TRAINER | {"assistant_only_loss": True, "max_steps": 3, "save_steps": 3}
    return parse(path, values | changed, prune.Config)
