"""Supervised fine-tuning: the model learns to answer as the rows answer.

One raw row: {"messages": [{"role": "user", "content": "What is 58 + 67?"},
                           {"role": "assistant", "content": "58 + 67 = 125."}]}

The loss is mean cross-entropy of the assistant's tokens (TRL's `SFTTrainer` with `assistant_only_loss`), all weights
or LoRA by configuration. Before the first step the stage writes `supervision.json`: how many tokens are trained on, and
one row with its mask, and stops when none or all are. What it leaves out: NEFTune, curriculum, early stopping.
"""

from pathlib import Path
from typing import Any

from tasks.stage import artifact
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig
from tasks.training import fates, supervised
from tasks.training import trainer as training

row_rule = fates.answers


class Config(AdapterConfig):
    """`params/<recipe>/sft.yaml`."""


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Fine-tune `model` on the recipe's `dataset` and write a model folder with its curves and audit."""
    with run.timed("import"):
        arguments = training.arguments(trainer_class(), config, run)
        adapter = training.peft_config(config, run, "CAUSAL_LM")
    trainer, tokenizer, figures = supervised.fine_tune(config, arguments, config.dataset, adapter, run, model, data)
    if run.main_process:
        artifact.write_json(run.out / "metrics.json", figures)
        training.finish(trainer, tokenizer, run)


if __name__ == "__main__":
    stage(main, Config)
