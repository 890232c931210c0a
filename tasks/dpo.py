"""Direct preference optimisation (Rafailov et al., arXiv:2305.18290) from the fine-tuned model.

One raw row: {"prompt": [{"role": "user", "content": "What is 58 + 67?"}],
              "chosen": [{"role": "assistant", "content": "58 + 67 = 125. Happy to help!"}],
              "rejected": [{"role": "assistant", "content": "58 + 67 = 125"}]}

TRL's `DPOTrainer` with any of its losses (`trainer.loss_type`, several with `loss_weights`); the reference is the model
it starts from. Plain DPO on small models often lowers the probability of the chosen answers too, only less than that of
the rejected ones; adding the `sft` loss holds it up. Margins and reward accuracies over time are in `curves.jsonl`.
"""

from pathlib import Path
from typing import Any

from tasks.models.multimodal import load_model, tokenizer_of
from tasks.stage import artifact
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig
from tasks.training import audit, fates, ranks, rows
from tasks.training import trainer as training

row_rule = fates.pairs


class Config(AdapterConfig):
    """`params/<recipe>/dpo.yaml`."""


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import DPOConfig

    return DPOConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Optimise `model` on the recipe's `dataset` and write a model folder with its curves."""
    optimise(config, run, model, data, {})


def optimise(config: Config, run: Run, model: Path, pairs: Path, other_figures: dict[str, float]) -> None:
    """Optimise `model` on the set `dataset` of the artifact `pairs`; `other_figures` join those of the training."""
    with run.timed("import"):
        from trl import DPOTrainer
    arguments = training.arguments(trainer_class(), config, run)
    policy, reader = load_model(model)
    audit.audited(config, run, pairs, config.dataset, reader, trainer_class(), row_rule, model)
    # TRL would load the reference of a model that sees with the policy's attention, which convolutions refuse.
    own = tokenizer_of(reader) is not reader and config.peft is None
    trainer = ranks.trainer_for(run, DPOTrainer)(
        model=policy,
        ref_model=load_model(model)[0] if own else None,
        args=arguments,
        train_dataset=rows.examples(pairs, config.dataset, "train"),
        eval_dataset=rows.examples(pairs, config.dataset, "validation"),
        processing_class=reader,
        peft_config=training.peft_config(config, run, "CAUSAL_LM"),
    )
    figures = training.train(trainer, run)
    if run.main_process:
        artifact.write_json(run.out / "metrics.json", {**figures, **other_figures})
        training.finish(trainer, reader, run)


if __name__ == "__main__":
    stage(main, Config)
