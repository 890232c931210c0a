"""A Bradley–Terry reward model: the fine-tuned model with a scalar head, trained to score chosen above rejected.

One raw row: as in `dpo`. The loss is -log σ(r(chosen) - r(rejected)) (Ouyang et al., arXiv:2203.02155, eq. 1), by TRL's
`RewardTrainer`. On the held-out pairs the stage reports accuracy with a 95 % interval and a calibration table: of the
pairs whose margin says "chosen wins with probability p", how many did it win? A margin is only worth optimising against
where the two agree. What it leaves out: ensembles, and scores of single steps.
"""

from pathlib import Path
from typing import Any

from tasks.models import weights
from tasks.models.folder import check_folder, load_tokenizer
from tasks.stage import artifact
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig
from tasks.training import audit, fates, ranks, rows
from tasks.training import trainer as training

row_rule = fates.compared


class Config(AdapterConfig):
    """`params/<recipe>/reward.yaml`."""

    calibration_bins: int
    """Bins of equal pair count in the calibration table."""
    bootstrap_samples: int
    """Resamples for the 95 % interval of the pair accuracy."""


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import RewardConfig

    return RewardConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Train a reward model from `model` on the recipe's `dataset`; judge it on the validation pairs."""
    with run.timed("import"):
        from transformers import AutoModelForSequenceClassification
        from trl import RewardTrainer
    arguments = training.arguments(trainer_class(), config, run)
    tokenizer = load_tokenizer(model)
    check_folder(model)
    records = audit.audited(config, run, data, config.dataset, tokenizer, trainer_class(), row_rule, model)
    _require_pairs(records["validation"]["used"], config.calibration_bins)
    import torch

    torch.manual_seed(config.seed)
    trainer = ranks.trainer_for(run, RewardTrainer)(
        model=weights.load_whole(
            AutoModelForSequenceClassification,
            model,
            new_head=True,
            num_labels=1,
            dtype="float32",
            use_safetensors=True,
            pad_token_id=tokenizer.pad_token_id,
        ),
        args=arguments,
        train_dataset=rows.examples(data, config.dataset, "train"),
        eval_dataset=rows.examples(data, config.dataset, "validation"),
        processing_class=tokenizer,
        peft_config=training.peft_config(config, run, "SEQ_CLS"),
    )
    figures = training.train(trainer, run)
    if run.main_process:  # which alone has the whole model, if it was sharded
        margins = _margins(trainer, tokenizer)
        artifact.write_json(run.out / "metrics.json", {**figures, **accuracy(margins, config)})
        artifact.write_json(run.out / "calibration.json", calibration(margins, config.calibration_bins))
        training.finish(trainer, tokenizer, run)


def accuracy(margins: list[float], config: Config) -> dict[str, float]:
    """Compute the share of pairs whose chosen side scores higher, ties as half, with its bootstrap interval."""
    import numpy as np

    from tasks.grading.bootstrap import mean_interval

    wins = np.array([0.5 if m == 0 else float(m > 0) for m in margins])
    interval = mean_interval(wins.tolist(), resamples=config.bootstrap_samples, confidence=0.95, seed=config.seed)
    return {
        "pair_accuracy": interval.value,
        "pair_accuracy_low": interval.low,
        "pair_accuracy_high": interval.high,
    }


def _require_pairs(count: int, bins: int) -> None:
    """Refuse fewer held-out pairs than calibration bins. Raises DataError."""
    if count < bins:
        raise DataError(f"{count} held-out pairs for {bins} calibration bins; lower calibration_bins")


def calibration(margins: list[float], bins: int) -> list[dict[str, float]]:
    """Compare predicted with observed win probability, in bins of equal count by the size of the margin.

    A margin's sign says which side the model prefers; the prediction is σ(|margin|), the observation is how often the
    preferred side is the chosen one.

    Raises:
        DataError: fewer pairs than bins.
    """
    import numpy as np

    _require_pairs(len(margins), bins)
    values = np.array(sorted(margins, key=abs))
    return [
        {
            "margin_low": round(float(abs(part[0])), 6),
            "margin_high": round(float(abs(part[-1])), 6),
            "predicted": round(float(np.mean(1 / (1 + np.exp(-np.abs(part))))), 6),
            "observed": round(float(np.mean(part > 0)), 6),
            "pairs": len(part),
        }
        for part in np.array_split(values, bins)
    ]


def _margins(trainer: Any, tokenizer: Any) -> list[float]:
    """Compute r(chosen) - r(rejected) of each held-out pair that the trainer kept, in order; none of them is cut."""
    import torch

    trainer.model.eval()
    size = trainer.args.per_device_eval_batch_size
    scores = []
    for side in ("chosen", "rejected"):
        ids = trainer.eval_dataset[f"{side}_ids"]
        parts = []
        for i in range(0, len(ids), size):
            batch = tokenizer.pad({"input_ids": ids[i : i + size]}, return_tensors="pt", padding_side="right")
            with torch.no_grad():
                parts.append(trainer.model(**batch.to(trainer.model.device)).logits[:, 0].float().cpu())
        scores.append(torch.cat(parts))
    return (scores[0] - scores[1]).tolist()


if __name__ == "__main__":
    stage(main, Config)
