"""Expert iteration: the model answers, a grader keeps what is right, the model learns from its own right answers.

One raw row: {"prompt": [{"role": "user", "content": "Add 358 and 967."}], "answer": "1325", "digits": 3}

Each round samples k answers a prompt, keeps those that reach the bar, drops repeats, and fine-tunes on what is left:
rejection-sampling fine-tuning (Yuan et al., arXiv:2308.01825), repeated as in ReST-EM (Singh et al., arXiv:2312.06585).
With `hint` and `restart` it is STaR (Zelikman et al., arXiv:2203.14465): prompts that were never answered right are
asked again with the answer given away ("rationalisation"), the answer is learnt without the hint, and each round starts
from the model it all began with, so that mistakes do not pile up. What it leaves out: weighting by difficulty, and a
verifier for the steps; a right answer by wrong steps is kept.
"""

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks import _artifact as artifact
from tasks import _rows, _train
from tasks._errors import ConfigError, DataError
from tasks._models import load_causal_lm, load_tokenizer
from tasks._rewards import Rewards, RewardSpec
from tasks._sample import Sampling, sample
from tasks._stage import Run, stage

log = logging.getLogger("polm")
SAMPLED, DONE = "sampled.json", "trained.json"
"""Marks of a round, each written once what it tells of is whole: a killed round goes on behind the last one."""


class Config(_train.MethodConfig):
    """`params/<recipe>/rft.yaml`, `star.yaml`."""

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
    keep_per_prompt: int = Field(ge=1)
    """Most answers to one prompt that are learnt, the first ones drawn."""
    restart: bool
    """Train every round from the first model on all that was kept so far (STaR), or go on from the last round's."""
    hint: str | None
    """Prompt that gives the answer away, e.g. `{question} (It is {answer}.)`, for prompts never answered right."""
    replay: dict[str, int]
    """Set of the data artifact to the rows of it that are mixed in each round, so that old skills stay."""


def trainer_class() -> type[Any]:
    """The class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Run the rounds; write the last model, its curves over all rounds, and `rounds.json`."""
    rewards = Rewards(config.graders, run.params_file)
    with run.timed("import"):
        arguments = _train.arguments(trainer_class(), config, run)
        _train.peft_config(config, run, "CAUSAL_LM")
    tokenizer = load_tokenizer(model)
    prompts = list(_rows.prompts(data, config.dataset, "train").shuffle(seed=config.seed))
    _check(config, run, data, prompts)
    current, figures, offset = model, dict[str, float](), 0
    learnt: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for number in range(config.rounds):
        folder = run.checkpoints / f"round-{number}"
        if not (folder / SAMPLED).exists():
            asked = _window(prompts, number, config.prompts_per_round)
            rows, counts = collect(config, rewards, current, tokenizer, asked, number, run, arguments)
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


def collect(
    config: Config,
    rewards: Rewards,
    model: Path,
    tokenizer: Any,
    asked: list[dict[str, Any]],
    number: int,
    run: Run,
    arguments: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Sample on the trainer's device, grade, keep.

    Returns:
        Rows `{"messages": […]}` to learn from, and the round's counts.

    Raises:
        DataError: not one answer reached the bar.
    """
    policy = load_causal_lm(model, "bfloat16" if arguments.bf16 else "float32").to(arguments.device)
    raised, seed = sum(rewards.failures.values()), config.seed + 1000 * number

    def right(rows: Sequence[Mapping[str, Any]], questions: Sequence[Any], offset: int, label: str) -> list[list[str]]:
        """For each row the sampled answers that reach the bar, repeats included."""
        answers = sample(
            policy, tokenizer, questions, config.sampling, config.chat_template_args, seed + offset,
            lambda done, total: run.progress.update(done, total, f"round {number + 1}: {label}"),
        )  # fmt: skip
        return [_passing(config, rewards, row, given) for row, given in zip(rows, answers, strict=True)]

    passed = right(asked, [row["prompt"] for row in asked], 0, "sampling")
    drawn, correct = len(asked) * config.sampling.samples_per_prompt, sum(map(len, passed))
    solved, rationalised = sum(map(bool, passed)), 0
    failed = [i for i, found in enumerate(passed) if not found]
    if config.hint is not None and failed:
        rows = [asked[i] for i in failed]
        hinted = right(rows, [_hinted(config.hint, row) for row in rows], 500, "rationalising")
        for i, found in zip(failed, hinted, strict=True):
            passed[i] = found
            rationalised += bool(found)
    learnt = [
        {"messages": [*row["prompt"], {"role": "assistant", "content": text}]}
        for row, texts in zip(asked, passed, strict=True)
        for text in list(dict.fromkeys(texts))[: config.keep_per_prompt]
    ]
    if not learnt:
        raise DataError(
            f"{run.params_file}: round {number + 1}: none of {drawn} sampled answers reached accept = "
            f"{config.accept:g}; ask easier prompts, sample more, or start from a better model"
        )
    return learnt, {
        "prompts": len(asked), "samples": drawn, "pass_rate": round(correct / drawn, 4), "solved": solved,
        "rationalised": rationalised, "kept": len(learnt), "raised": sum(rewards.failures.values()) - raised,
    }  # fmt: skip


def _passing(config: Config, rewards: Rewards, row: Mapping[str, Any], given: list[str]) -> list[str]:
    """The answers that reach the bar, in the order drawn."""
    view = {"question": row["prompt"][-1]["content"], **row}
    totals = rewards.totals(given, [view] * len(given))
    return [text for text, total in zip(given, totals, strict=True) if total >= config.accept]


def _check(config: Config, run: Run, data: Path, prompts: list[dict[str, Any]]) -> None:
    """What would only be found out after the sampling. Raises ConfigError or DataError."""
    for name, count in config.replay.items():
        there = len(_rows.examples(data, name, "train"))
        if there < count:
            raise ConfigError(f"{run.params_file}: replay.{name} is {count}, but the set has {there} rows")
    if config.hint is not None:
        try:
            _hinted(config.hint, prompts[0])
        except (KeyError, IndexError, ValueError) as e:
            raise ConfigError(
                f"{run.params_file}: hint: {e!r}; it may name {{question}} and {{answer}}, and other braces are doubled"
            ) from None


def _hinted(hint: str, row: Mapping[str, Any]) -> list[dict[str, str]]:
    *before, last = row["prompt"]
    return [*before, {**last, "content": hint.format(question=last["content"], answer=row["answer"])}]


def _window(prompts: list[dict[str, Any]], number: int, size: int) -> list[dict[str, Any]]:
    """The prompts of a round: the next ones, from the start again after the last."""
    return [prompts[(number * size + i) % len(prompts)] for i in range(min(size, len(prompts)))]


def _replayed(config: Config, data: Path, number: int) -> list[dict[str, Any]]:
    return [
        {"messages": row["messages"]}
        for name, count in sorted(config.replay.items())
        for row in _rows.examples(data, name, "train").shuffle(seed=config.seed + number).select(range(count))
    ]


def _fine_tune(
    config: Config, run: Run, start: Path, tokenizer: Any, rows: list[dict[str, Any]], folder: Path
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
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_train.peft_config(config, run, "CAUSAL_LM"),
    )
    figures = _train.train(trainer, inner)
    _train.finish(trainer, tokenizer, inner)
    return figures


if __name__ == "__main__":
    stage(main, Config)
