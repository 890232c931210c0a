"""Rounds of sampling and training: a model answers, some of it is kept, the model learns it, and again.

What the stages that learn from their own answers share (`rejection`, `refine`): the prompts of each round, the rows
that are mixed in, the training, and what is on disk of each round, so that a killed stage goes on with the round it was
in. A stage brings a function that samples with the model at hand and returns what to learn.
"""

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks import _artifact as artifact
from tasks import _rows, _train
from tasks._errors import ConfigError
from tasks._models import load_causal_lm
from tasks._reward_set import RewardSpec
from tasks._sample import Sampling
from tasks._stage import Run

log = logging.getLogger("polm")
SAMPLED, DONE = "sampled.json", "trained.json"
"""Marks of a round, each written once what it tells of is whole: a killed round goes on behind the last one."""

Rows = list[dict[str, Any]]
Collect = Callable[[Any, Rows, int], tuple[Rows, dict[str, Any]]]
"""Policy on its device, rows of prompts, number of the round from 0, to rows to learn (TRL's columns) and counts."""


class RoundsConfig(_train.MethodConfig):
    """What the stages that go in rounds have in common."""

    rounds: int = Field(ge=1)
    """Rounds of sampling and training."""
    prompts_per_round: int = Field(ge=1)
    """Prompts of the data set that each round asks, other ones each time as long as there are."""
    sampling: Sampling
    """How answers are drawn."""
    chat_template_args: dict[str, Any]
    """Passed to the chat template when answers are drawn, e.g. `enable_thinking: false`."""
    graders: dict[str, RewardSpec] = Field(min_length=1)
    """Name to grader."""
    accept: float
    """Weighted sum of the graders that an answer must reach to be learnt."""
    restart: bool
    """Train every round from the first model on all that was kept so far (STaR), or go on from the last round's."""
    replay: dict[str, int]
    """Set of the data artifact to the rows of it that are mixed in each round, so that old skills stay."""


def trainer_class() -> type[Any]:
    """The class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def arguments(config: RoundsConfig, run: Run) -> Any:
    """TRL's config object, with `trainer:` and `peft:` checked. Raises ConfigError."""
    built = _train.arguments(trainer_class(), config, run)
    _train.peft_config(config, run, "CAUSAL_LM")
    return built


def load_policy(folder: Path, arguments: Any) -> Any:
    """A model to sample from, on the trainer's device and in its data type."""
    return load_causal_lm(folder, "bfloat16" if arguments.bf16 else "float32").to(arguments.device)


def prompts(config: RoundsConfig, data: Path) -> Rows:
    """The set's training prompts, in the order in which the rounds ask them. Raises DataError."""
    return list(_rows.prompts(data, config.dataset, "train").shuffle(seed=config.seed))


def check_replay(config: RoundsConfig, run: Run, data: Path) -> None:
    """What would only be found out after the sampling. Raises ConfigError or DataError."""
    for name, count in config.replay.items():
        there = len(_rows.read(data, name, "train"))
        if there < count:
            raise ConfigError(f"{run.params_file}: replay.{name} is {count}, but the set has {there} rows")


def run_rounds(
    config: RoundsConfig, run: Run, collect: Collect, *, model: Path, tokenizer: Any, data: Path, asked: Rows
) -> None:
    """Run the rounds; write the last model, its curves over all rounds, `rounds.json` and `metrics.json`.

    Args:
        config: of the stage.
        run: of the stage.
        collect: samples and keeps.
        model: model folder to start from.
        tokenizer: its tokenizer.
        data: data artifact.
        asked: all prompts, from `prompts`.
    """
    built = arguments(config, run)
    current, figures, offset = model, dict[str, float](), 0
    learnt: Rows = []
    rounds: Rows = []
    curves: Rows = []
    for number in range(config.rounds):
        folder = run.checkpoints / f"round-{number}"
        if not (folder / SAMPLED).exists():
            window = _window(asked, number, config.prompts_per_round)
            rows, counts = collect(load_policy(current, built), window, number)
            artifact.write_jsonl(folder / "rows.jsonl", rows)
            artifact.write_json(folder / SAMPLED, counts)
        rows, counts = artifact.read_jsonl(folder / "rows.jsonl"), artifact.read_json(folder / SAMPLED)
        log.info("round %d: %s", number + 1, counts)
        if not (folder / DONE).exists():
            start = model if config.restart else current
            train_on = [*(learnt if config.restart else []), *rows, *_replayed(config, data, number)]
            artifact.write_json(folder / DONE, _fine_tune(config, run, start, tokenizer, train_on, folder))
        figures = artifact.read_json(folder / DONE)
        learnt += rows
        rounds.append({"round": number + 1, **counts, "loss": figures.get("loss")})
        curve = artifact.read_jsonl(folder / "model" / "curves.jsonl")
        curves += [{**row, "step": row["step"] + offset, "round": number + 1} for row in curve]
        current, offset = folder / "model", offset + int(figures["steps"])
    shutil.copytree(current, run.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapter", "curves.jsonl"))
    artifact.write_jsonl(run.out / "curves.jsonl", curves)
    artifact.write_json(run.out / "rounds.json", {"rounds": rounds})
    artifact.write_json(run.out / "metrics.json", {**figures, "kept": len(learnt)})


def _window(rows: Rows, number: int, size: int) -> Rows:
    """The prompts of a round: the next ones, from the start again after the last."""
    return [rows[(number * size + i) % len(rows)] for i in range(min(size, len(rows)))]


def _replayed(config: RoundsConfig, data: Path, number: int) -> Rows:
    return [
        row
        for name, count in sorted(config.replay.items())
        for row in _rows.examples(data, name, "train").shuffle(seed=config.seed + number).select(range(count))
    ]


def _fine_tune(
    config: RoundsConfig, run: Run, start: Path, tokenizer: Any, rows: Rows, folder: Path
) -> dict[str, float]:
    """Fine-tune on the rows and write the round's model folder."""
    from datasets import Dataset
    from trl import SFTTrainer

    shutil.rmtree(folder / "model", ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    inner = dataclasses.replace(run, checkpoints=folder / "training", out=folder / "model")
    trainer = SFTTrainer(
        model=load_causal_lm(start),
        args=_train.arguments(trainer_class(), config, inner),
        train_dataset=Dataset.from_list([_rows.parted(row) for row in rows]),
        processing_class=tokenizer,
        peft_config=_train.peft_config(config, run, "CAUSAL_LM"),
    )
    figures = _train.train(trainer, inner)
    _train.finish(trainer, tokenizer, inner)
    return figures
