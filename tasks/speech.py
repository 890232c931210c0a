"""Speech-language tuning: a model that is given sounds learns to answer what is asked of them.

One raw row: {"messages": [{"role": "user", "content": "Answer the question."},
                           {"role": "assistant", "content": "3 + 5 = 8."}], "audio": ["51f2….flac"]}

TRL's trainers take no sounds, so this is transformers' `Trainer` with a collator of ours, for any model that
`AutoModelForMultimodalLM` loads and whose processor takes one sound a text: one that `align_speech` made, or one from
the hub. The loss is on the answer and the end of its turn. `trained` says which parts learn, all weights or LoRA.

A falling loss proves nothing here: a deaf model learns how answers look. `evaluate` asks every question again without
the sound. What it leaves out: packing, cutting rows, rows without a sound, and several sounds in a row.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.multimodal.speech_settings import SpeechAugmentation
from tasks.stage import artifact
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig
from tasks.training import trainer as training
from tasks.vlm import Part, select, share


class Config(AdapterConfig):
    """`params/<recipe>/speech.yaml`."""

    trained: list[Part] = Field(min_length=1)
    """Parts that learn: `encoder`, `projector`, `language_model`. With `peft`, those that its adapter reaches learn by
    the adapter, and the others whole."""
    augmentation: SpeechAugmentation | None
    """Random changes of the sounds while they are learnt; null: none."""


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from transformers import TrainingArguments

    return TrainingArguments


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Tune `model` on the recipe's `dataset` and write a model folder with its curves and audit."""
    with run.timed("import"):
        from tasks.models.multimodal import is_multimodal, load_multimodal
        from tasks.training import spoken

        arguments = training.arguments(trainer_class(), config, run)
        adapter = training.peft_config(config, run, "CAUSAL_LM")
    arguments.remove_unused_columns = False  # a row's sounds are not the model's arguments
    arguments.label_names = ["labels"]
    if not is_multimodal(model):
        raise ConfigError(f"{run.params_file}: {model} takes no sounds; a model without ears gets them by align_speech")
    loaded, processor = load_multimodal(model)
    select(loaded, config.trained, run.params_file)
    if adapter is not None:
        from peft import get_peft_model

        share(adapter, loaded, config.trained, run.params_file)
        loaded = get_peft_model(loaded, adapter)
    splits = spoken.audited(config, run, data, processor, model)
    train, validation = (
        spoken.Answers(splits[split], processor, data, config.augmentation if split == "train" else None, config.seed)
        for split in ("train", "validation")
    )
    audit = spoken.supervision(train, processor)
    if run.main_process:
        artifact.write_json(run.out / "supervision.json", audit)
    trainer = spoken.WholeTrainer(
        model=loaded,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=spoken.Collator(processor, config.augmentation),
        processing_class=processor,
        callbacks=[spoken.Epochs(train)],
    )
    figures = {**training.train(trainer, run), "trained_tokens": audit["trained_tokens"]}
    if run.main_process:
        artifact.write_json(run.out / "metrics.json", figures)
        training.finish(trainer, processor, run)


if __name__ == "__main__":
    stage(main, Config)
