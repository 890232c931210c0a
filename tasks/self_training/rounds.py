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

from tasks.models.folder import load_causal_lm
from tasks.rewards.composite import RewardSpec
from tasks.sampling.sample import SamplingSettings
from tasks.stage import artifact, audit_record
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import AdapterConfig
from tasks.training import audit as row_audit
from tasks.training import fates as row_fates
from tasks.training import rows as training_rows
from tasks.training import trainer as training
from tasks.training.prompts import View, fitting_prompts

log = logging.getLogger("polm")
SAMPLED, DONE = "sampled.json", "trained.json"
"""Marks of a round, each written once what it tells of is whole: a killed round goes on behind the last one."""

Rows = list[dict[str, Any]]
Collect = Callable[[Any, Rows, int], tuple[Rows, dict[str, Any]]]
"""Policy on its device, rows of prompts, number of the round from 0, to rows to learn (TRL's columns) and counts."""


class RoundsConfig(AdapterConfig):
    """What the stages that go in rounds have in common."""

    rounds: int = Field(ge=1)
    """Rounds of sampling and training."""
    prompts_per_round: int = Field(ge=1)
    """Prompts of the data set that each round asks, other ones each time as long as there are."""
    sampling: SamplingSettings
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

    def unfit(self, processes: int, sharding: str | None) -> str | None:
        """Refuse several processes: each would sample, and learn, rounds of its own."""
        return "rounds of sampling and training run in one; take null" if processes > 1 or sharding else None


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def arguments(config: RoundsConfig, run: Run) -> Any:
    """Build TRL's config object, with `trainer:` and `peft:` checked. Raises ConfigError."""
    trl_config = training.arguments(trainer_class(), config, run)
    training.peft_config(config, run, "CAUSAL_LM")
    return trl_config


def load_policy(folder: Path, arguments: Any) -> Any:
    """Load a model to sample from, on the trainer's device and in its data type."""
    return load_causal_lm(folder, "bfloat16" if arguments.bf16 else "float32").to(arguments.device)


def training_prompts(
    config: RoundsConfig, run: Run, tokenizer: Any, model: Path, data: Path, answers: int = 1, view: View = dict
) -> tuple[Rows, audit_record.Record]:
    """Read the set's training prompts that leave room for the answers, in the order in which the rounds ask them.

    Args:
        config: the stage's configuration.
        run: the stage's run.
        tokenizer: the model's tokenizer.
        model: model folder.
        data: data artifact.
        answers: how many are written to a prompt, one after the other.
        view: a row to the row whose `prompt` is the longest conversation that is answered, without these answers.

    Returns:
        The rows, and their record for `audit.json`.

    Raises:
        DataError: more of them leave no room than the recipe allows.
    """
    limit = room(config, model, answers)
    dataset, record = fitting_prompts(config, run, "prompts", data, tokenizer, limit, config.chat_template_args, view)
    return list(dataset.shuffle(seed=config.seed)), record


def room(config: RoundsConfig, model: Path, answers: int) -> row_audit.Limit:
    """Find the most tokens of a conversation that leave room for so many answers."""
    key = "sampling.max_new_tokens" if answers == 1 else f"{answers} times sampling.max_new_tokens"
    return row_audit.longest_prompt(model, answers * config.sampling.max_new_tokens, key)


def check_replay(config: RoundsConfig, run: Run, data: Path) -> None:
    """Find what would only be found out after the sampling. Raises ConfigError or DataError."""
    for name, count in config.replay.items():
        there = len(training_rows.read(data, name, "train"))
        if there < count:
            raise ConfigError(f"{run.params_file}: replay.{name} is {count}, but the set has {there} rows")


def run_rounds(
    config: RoundsConfig,
    run: Run,
    collect: Collect,
    *,
    model: Path,
    tokenizer: Any,
    data: Path,
    prompt_rows: Rows,
    audit: dict[str, audit_record.Record],
) -> None:
    """Run the rounds; write the last model, its curves over all, `rounds.json`, `metrics.json` and `audit.json`.

    Args:
        config: the stage's configuration.
        run: the stage's run.
        collect: samples and keeps.
        model: model folder to start from.
        tokenizer: its tokenizer.
        data: data artifact.
        asked: all prompts, from `training_prompts`.
        audit: record of what is asked; that of the rows that each round learns joins it.
    """
    trl_config = arguments(config, run)
    current = model
    figures: dict[str, float] = {}
    offset = 0
    rows_so_far: Rows = []
    rounds: Rows = []
    curves: Rows = []
    for number in range(config.rounds):
        folder = run.checkpoints / f"round-{number}"
        if not (folder / SAMPLED).exists():
            window = _window(prompt_rows, number, config.prompts_per_round)
            rows, counts = collect(load_policy(current, trl_config), window, number)
            artifact.write_jsonl(folder / "rows.jsonl", rows)
            artifact.write_json(folder / SAMPLED, counts)
        rows = artifact.read_jsonl(folder / "rows.jsonl")
        counts = artifact.read_json(folder / SAMPLED)
        log.info("round %d: %s", number + 1, counts)
        if not (folder / DONE).exists():
            start = model if config.restart else current
            train_on = [*(rows_so_far if config.restart else []), *rows, *_replayed(config, data, number)]
            source = f"round {number + 1}", folder / "rows.jsonl"
            record = row_audit.learnt(
                config, run, source[0], train_on, source, tokenizer, trainer_class(), row_fates.answers, start
            )
            artifact.write_json(folder / audit_record.FILE, record)
            artifact.write_json(folder / DONE, _fine_tune(config, run, start, tokenizer, train_on, folder))
        figures = artifact.read_json(folder / DONE)
        audit = {**audit, f"round_{number + 1}": artifact.read_json(folder / audit_record.FILE)}
        rows_so_far += rows
        rounds.append({"round": number + 1, **counts, "loss": figures.get("loss")})
        curve = artifact.read_jsonl(folder / "model" / "curves.jsonl")
        curves += [{**row, "step": row["step"] + offset, "round": number + 1} for row in curve]
        current = folder / "model"
        offset += int(figures["steps"])
    shutil.copytree(current, run.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapter", "curves.jsonl"))
    row_audit.write(run, audit)
    artifact.write_jsonl(run.out / "curves.jsonl", curves)
    artifact.write_json(run.out / "rounds.json", {"rounds": rounds})
    artifact.write_json(run.out / "metrics.json", {**figures, "kept": len(rows_so_far)})


def _window(rows: Rows, number: int, size: int) -> Rows:
    """Take the prompts of a round: the next ones, from the start again after the last."""
    return [rows[(number * size + i) % len(rows)] for i in range(min(size, len(rows)))]


def _replayed(config: RoundsConfig, data: Path, number: int) -> Rows:
    return [
        row
        for name, count in sorted(config.replay.items())
        for row in training_rows.examples(data, name, "train").shuffle(seed=config.seed + number).select(range(count))
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
        args=training.arguments(trainer_class(), config, inner),
        train_dataset=Dataset.from_list([training_rows.parted(row) for row in rows]),
        processing_class=tokenizer,
        peft_config=training.peft_config(config, run, "CAUSAL_LM"),
    )
    figures = training.train(trainer, inner)
    training.finish(trainer, tokenizer, inner)
    return figures
