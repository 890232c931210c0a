"""Supervised fine-tuning: the model learns to answer as the rows answer.

One raw row: {"messages": [{"role": "user", "content": "What is 58 + 67?"},
                           {"role": "assistant", "content": "58 + 67 = 125."}]}

The loss is mean cross-entropy of the assistant's tokens (TRL's `SFTTrainer` with `assistant_only_loss`), all weights
or LoRA by configuration. Before the first step the stage writes `supervision.json`: how many tokens are trained on, and
one row with its mask, and stops when none or all are. What it leaves out: NEFTune, curriculum, early stopping.
"""

from pathlib import Path
from typing import Any

from tasks import _artifact as artifact
from tasks import _train
from tasks._chat import mark_generation
from tasks._errors import DataError
from tasks._models import load_causal_lm, load_tokenizer
from tasks._stage import Run, stage


class Config(_train.MethodConfig):
    """`params/<recipe>/sft.yaml`."""


def trainer_class() -> type[Any]:
    """The class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Fine-tune `model` on the recipe's `dataset` and write a model folder with its curves and audit."""
    with run.timed("import"):
        from trl import SFTTrainer
    arguments = _train.arguments(trainer_class(), config, run)
    tokenizer = load_tokenizer(model)
    mark_generation(tokenizer, model)
    trainer = SFTTrainer(
        model=load_causal_lm(model),
        args=arguments,
        train_dataset=_train.rows(data, config.dataset, "train"),
        eval_dataset=_train.rows(data, config.dataset, "validation"),
        processing_class=tokenizer,
        peft_config=_train.peft_config(config, run, "CAUSAL_LM"),
    )
    audit = supervision(
        trainer.train_dataset, trainer.data_collator, tokenizer, data / artifact.set_folder(config.dataset)
    )
    if run.main_process:
        artifact.write_json(run.out / "supervision.json", audit)
    figures = _train.train(trainer, run)
    if run.main_process:
        artifact.write_json(run.out / "metrics.json", {**figures, "trained_tokens": audit["trained_tokens"]})
        _train.finish(trainer, tokenizer, run)


def supervision(dataset: Any, collator: Any, tokenizer: Any, source: Path) -> dict[str, Any]:
    """Count what the loss will see, through the trainer's own collator, and render one row with its mask.

    Returns:
        `rows`, `tokens`, `trained_tokens`, `share` in [0, 1], and `example`: runs of text, trained or not.

    Raises:
        DataError: no token, or every token, carries loss: the chat template's marks do not work.
    """
    tokens = trained = 0
    for row in dataset:
        labels = collator([row])["labels"]
        tokens += labels.numel()
        trained += int((labels != -100).sum())
    if trained == 0 or trained == tokens:
        found = "no token" if trained == 0 else "every token"
        raise DataError(
            f"{source}: {found} of {tokens} would be trained on; the chat template must mark the assistant's turns "
            f"with {{% generation %}}, rows must have an assistant turn inside trainer.max_length, and "
            f"trainer.assistant_only_loss must be true"
        )
    batch = collator([dataset[0]])
    example = _runs(batch["input_ids"][0].tolist(), (batch["labels"][0] != -100).tolist(), tokenizer)
    return {
        "rows": len(dataset),
        "tokens": tokens,
        "trained_tokens": trained,
        "share": round(trained / tokens, 4),
        "example": example,
    }


def _runs(ids: list[int], mask: list[bool], tokenizer: Any) -> list[dict[str, Any]]:
    """Consecutive tokens of one kind, decoded together."""
    runs: list[tuple[bool, list[int]]] = []
    for token, trained in zip(ids, mask, strict=True):
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    return [{"text": tokenizer.decode(part), "trained": trained} for trained, part in runs]


if __name__ == "__main__":
    stage(main, Config)
