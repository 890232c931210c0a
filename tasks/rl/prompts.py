"""The prompts that the stages learn from whose trainers have them answered: GRPO, PPO, online DPO."""

from pathlib import Path
from typing import Any

from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import TrlConfig
from tasks.training import audit
from tasks.training.prompts import fitting_prompts


def training_prompts(config: TrlConfig, run: Run, arguments: Any, reader: Any, model: Path, data: Path) -> Any:
    """Read the training prompts that leave room for a whole answer, a `datasets.Dataset`; write `audit.json`.

    Raises:
        DataError: no such set, or more of its prompts leave no room than the recipe allows.
        ConfigError: the prompts have pictures, and the model takes none.
    """
    limit = audit.longest_prompt(model, arguments.max_completion_length or 1, "trainer.max_completion_length")
    template_args = arguments.chat_template_kwargs or {}
    dataset, record = fitting_prompts(config, run, "train", data, reader, limit, template_args)
    audit.write(run, {"train": record})
    return dataset
