"""What the stages that learn from whole answers share: TRL's `SFTTrainer`, and the audit of what carries loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.models.chat_template import mark_generation
from tasks.models.multimodal import load_model, tokenizer_of
from tasks.stage import artifact
from tasks.stage.data_folder import set_folder
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import TrlConfig
from tasks.training import audit as row_audit
from tasks.training import fates as row_fates
from tasks.training import ranks, rows
from tasks.training import trainer as training

LOOKED_AT = 256
"""Rows with pictures whose loss is counted before training: each has to be decoded and scaled."""


def fine_tune(
    config: TrlConfig,
    arguments: Any,
    dataset: str,
    peft_config: Any,
    run: Run,
    model: Path,
    data: Path,
    prepare: Callable[[Any], None] = lambda loaded: None,
) -> tuple[Any, Any, dict[str, float]]:
    """Train `model` on the set `dataset`; write `audit.json` and `supervision.json` before the first step, and curves.

    Args:
        config: the stage's configuration.
        arguments: `trl.SFTConfig`.
        dataset: set of the data artifact, with rows of `messages`.
        peft_config: settings of the adapter to train; None trains all weights.
        run: the stage's run.
        model: model folder.
        data: data artifact.
        prepare: what is done to the model before the trainer sees it, e.g. freezing parts of it.

    Returns:
        The trainer, the tokenizer (or the processor of a model that sees or hears), and figures for `metrics.json`.

    Raises:
        DataError: no such set, more of its rows too long than the recipe allows, nothing to learn from, or training
            diverged.
    """
    from trl import SFTTrainer

    loaded, reader = load_model(model)
    prepare(loaded)
    tokenizer = tokenizer_of(reader)
    if reader is tokenizer:
        mark_generation(tokenizer, model)
    row_audit.audited(config, run, data, dataset, reader, type(arguments), row_fates.answers, model)
    trainer = ranks.trainer_for(run, SFTTrainer)(
        model=loaded,
        args=arguments,
        train_dataset=rows.examples(data, dataset, "train"),
        eval_dataset=rows.examples(data, dataset, "validation"),
        processing_class=reader,
        peft_config=peft_config,
    )
    audit = supervision(trainer.train_dataset, trainer.data_collator, tokenizer, data / set_folder(dataset))
    if run.main_process:
        artifact.write_json(run.out / "supervision.json", audit)
    return trainer, reader, {**training.train(trainer, run), "trained_tokens": audit["trained_tokens"]}


def supervision(dataset: Any, collator: Any, tokenizer: Any, source: Path) -> dict[str, Any]:
    """Count what the loss will see, through the trainer's own collator, and render one row with its mask.

    Of rows with pictures only the first are looked at.

    Returns:
        `rows`, `tokens`, `trained_tokens`, `share` in [0, 1], and `example`: runs of text, trained or not.

    Raises:
        DataError: no token, or every token, carries loss: the chat template's marks do not work.
    """
    tokens = 0
    trained = 0
    rows = dataset.select(range(min(len(dataset), LOOKED_AT))) if "images" in dataset.column_names else dataset
    for row in rows:
        labels = collator([row])["labels"]
        tokens += labels.numel()
        trained += int((labels != -100).sum())
    if trained == 0 or trained == tokens:
        what = "no token" if trained == 0 else "every token"
        raise DataError(
            f"{source}: {what} of {tokens} would be trained on; the chat template must mark the assistant's turns "
            f"with {{% generation %}}, rows must have an assistant turn inside trainer.max_length, and "
            f"trainer.assistant_only_loss must be true (of rows with pictures: false)"
        )
    batch = collator([dataset[0]])
    example = _runs(batch["input_ids"][0].tolist(), (batch["labels"][0] != -100).tolist(), tokenizer)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "trained_tokens": trained,
        "share": round(trained / tokens, 4),
        "example": example,
    }


def _runs(ids: list[int], mask: list[bool], tokenizer: Any) -> list[dict[str, Any]]:
    """Decode consecutive tokens of one kind together."""
    runs: list[tuple[bool, list[int]]] = []
    for token, trained in zip(ids, mask, strict=True):
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    return [{"text": tokenizer.decode(tokens), "trained": trained} for trained, tokens in runs]
