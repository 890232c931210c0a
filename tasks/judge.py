"""The local judge: the fine-tuned model learns to say which of two answers is better by the constitution.

One raw row, and the two that are made of it, so that neither place is right more often than the other:

    {"prompt": [{"role": "user", "content": "What is 58 + 67?"}],
     "chosen": [{"role": "assistant", "content": "58 + 67 = 125."}],
     "rejected": [{"role": "assistant", "content": "58 + 67 = 124."}]}
    What is 58 + 67? A: 58 + 67 = 125. B: 58 + 67 = 124. Which is better?   ->  A
    What is 58 + 67? A: 58 + 67 = 124. B: 58 + 67 = 125. Which is better?   ->  B

A large instruction-tuned model needs no such stage to follow a constitution (Bai et al., arXiv:2212.08073); a small one
cannot, so it is shown pairs that were decided by it: a generative reward model (Mahan et al., arXiv:2410.12832). The
loss is that of `sft`, on the label alone. The constitution is kept in the model's folder, and `label` asks with that
one: a judge is never asked another way than it learnt. What it leaves out: reasons before the verdict.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.judges.protocol import CONSTITUTION, Constitution, read_constitution, spoken
from tasks.stage import artifact
from tasks.stage.config import digest
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig
from tasks.training import rows as training_rows
from tasks.training import supervised
from tasks.training import trainer as training

row_rule = None
JUDGEMENTS = "judgements"


class Config(AdapterConfig):
    """`params/<recipe>/judge.yaml`. `dataset` is a set of pairs: `preferences`, `preferences:judgements`."""

    constitution: Path
    """Relative to the recipe's folder."""


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Fine-tune `model` on both orders of each pair; write a model folder with its constitution, curves and audit."""
    constitution = read_constitution(run.params_file.parent / config.constitution)
    # A file of its own is not in the digest of the configuration: a checkpoint of another constitution must not go on.
    run.checkpoints = run.checkpoints.with_name(f"{run.checkpoints.name}-{digest(constitution)[:16]}")
    with run.timed("import"):
        arguments = training.arguments(trainer_class(), config, run)
        adapter = training.peft_config(config, run, "CAUSAL_LM")
    for split in ("train", "validation"):
        pairs = training_rows.read(data, config.dataset, split)
        named = [
            {"id": f"{pairs[i // 2]['id']}-{i % 2}", **row} for i, row in enumerate(judgements(pairs, constitution))
        ]
        _write(run.checkpoints / JUDGEMENTS / f"{split}.jsonl", named)
    trainer, tokenizer, figures = supervised.fine_tune(
        config, arguments, JUDGEMENTS, adapter, run, model, run.checkpoints
    )
    if run.main_process:
        artifact.write_json(run.out / "metrics.json", figures)
        artifact.write_json(run.out / CONSTITUTION, constitution.model_dump(mode="json"))
        training.finish(trainer, tokenizer, run)


def judgements(pairs: Any, constitution: Constitution) -> Iterator[dict[str, Any]]:
    """Yield each pair in both orders, as a conversation of the judge's prompt and the right label."""
    for pair in pairs:
        question, better, worse = (spoken(pair[side]) for side in ("prompt", "chosen", "rejected"))
        for a, b, label in ((better, worse, constitution.labels[0]), (worse, better, constitution.labels[1])):
            prompt = {"role": "user", "content": constitution.prompt(question, a, b)}
            yield {"messages": [prompt, {"role": "assistant", "content": label}]}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows for the trainer, in whole: every process of a launch does, and each reads what is there."""
    temp = path.with_suffix(f".{os.getpid()}")
    artifact.write_jsonl(temp, rows)
    temp.rename(path)


if __name__ == "__main__":
    stage(main, Config)
