"""Kahneman–Tversky optimisation (Ethayarajh et al., arXiv:2402.01306): preference learning from single answers.

One raw row: {"prompt": [{"role": "user", "content": "What is 58 + 67?"}],
              "completion": [{"role": "assistant", "content": "58 + 67 = 125. Happy to help!"}], "label": true}

A thumb up or down is what a product collects; pairs are what annotators are paid for (they are taken too, and parted).
TRL's `KTOTrainer`: the value of an answer is its log-probability ratio to the reference, against a KL baseline that
each batch estimates by pairing its prompts with each other's answers; so the order of rows is fixed, and a batch holds
at least two. Unequal numbers of thumbs are balanced by `desirable_weight` and `undesirable_weight`. What it leaves out:
refusing labels that contradict each other.
"""

from pathlib import Path
from typing import Any

from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.data_folder import set_folder
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig
from tasks.training import audit, fates, ranks
from tasks.training import rows as training_rows
from tasks.training import trainer as training

row_rule = fates.rated


class Config(AdapterConfig):
    """`params/<recipe>/kto.yaml`."""


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import KTOConfig

    return KTOConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Optimise `model` on the recipe's `dataset` and write a model folder with its curves."""
    with run.timed("import"):
        from trl import KTOTrainer
    arguments = training.arguments(trainer_class(), config, run)
    tokenizer = load_tokenizer(model)
    audit.audited(config, run, data, config.dataset, tokenizer, trainer_class(), row_rule, model)
    splits = [
        answers(training_rows.examples(data, config.dataset, split), config.seed) for split in ("train", "validation")
    ]
    trainer = ranks.trainer_for(run, KTOTrainer)(
        model=load_causal_lm(model),
        args=arguments,
        train_dataset=splits[0],
        eval_dataset=splits[1],
        processing_class=tokenizer,
        peft_config=training.peft_config(config, run, "CAUSAL_LM"),
    )
    balance = thumbs(trainer.train_dataset["label"], data / set_folder(config.dataset))  # of what it kept
    figures = training.train(trainer, run)
    if run.main_process:
        artifact.write_json(run.out / "metrics.json", {**figures, **balance})
        training.finish(trainer, tokenizer, run)


def answers(rows: Any, seed: int) -> Any:
    """Make single answers with a label, in a mixed order; pairs are taken apart.

    TRL takes pairs apart too, but all liked answers come before all others there, and KTO reads its rows in order: the
    first half of the training would see no answer to avoid.
    """
    if "label" in rows.column_names:
        return rows
    from datasets import Dataset

    single = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in rows
        for side in ("chosen", "rejected")
    ]
    return Dataset.from_list(single).shuffle(seed=seed)


def thumbs(labels: list[bool], source: Path) -> dict[str, int]:
    """Count the answers that are liked and disliked. Raises DataError when all point one way: nothing to tell apart."""
    up = sum(labels)
    if up in (0, len(labels)):
        raise DataError(f"{source}: all {len(labels)} labels are {up > 0}; KTO needs liked and disliked answers")
    return {"liked": up, "disliked": len(labels) - up}


if __name__ == "__main__":
    stage(main, Config)
