"""RLAIF's labels: the policy answers, a judge that reads the constitution says which of two answers is better.

Reinforcement learning from AI feedback (Lee et al., arXiv:2309.00267) in its offline form: pairs sampled from the
policy itself, labelled by a judge, then `rlaif` learns from them by DPO. The judge is the local model, or any
OpenAI-compatible endpoint. Each pair is judged in both orders, and one on which they disagree is dropped. One row:

    {"id": "3f…-0", "prompt": [{"role": "user", "content": "Add 58 and 67."}],
     "chosen": [{"role": "assistant", "content": "58 + 67 = 125. Happy to help!"}],
     "rejected": [{"role": "assistant", "content": "58 + 67 = 125"}], "source": "judge", "gold_agrees": true}

The gold checker never labels: it only says in `judge.json` how often the judge is right, and whether it likes the first
or the longer answer better than it should. What it leaves out: sampling again after training (on-policy rounds).
"""

import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.grading import answers as graders
from tasks.judges.endpoint import Endpoint, EndpointJudge
from tasks.judges.opening import JudgeSettings, open_judge
from tasks.judges.protocol import Judge, Judgement, Pair, figures, judge_pairs, spoken
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.sampling.sample import SamplingSettings, sample, texts
from tasks.stage import artifact, audit_record
from tasks.stage.config import StageConfig, Strict, suggest
from tasks.stage.data_folder import split_file
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run, stage
from tasks.training import audit as row_audit
from tasks.training import fates as row_fates
from tasks.training import rows as training_rows

log = logging.getLogger("polm")


class Gold(Strict):
    """What the judge is held against. Never labels."""

    grader: str
    """A function of `tasks/grading/answers.py`, e.g. `sums`."""
    metrics: list[str] = Field(min_length=1)
    """Metrics of the grader, whose sum says which answer is better."""


class Prompts(Strict):
    """Most prompts of each split, from the first."""

    train: int = Field(ge=1)
    validation: int = Field(ge=1)


class Config(StageConfig):
    """`params/<recipe>/label.yaml`."""

    dataset: str
    """Set of prompts in the data artifact, e.g. `prompts`."""
    prompts: Prompts
    """How many are asked."""
    sampling: SamplingSettings
    """How the policy answers. Distinct answers to a prompt are paired in the order drawn."""
    device: str
    """Where policy and local judge run: `cpu`, `cuda`, `cuda:1`."""
    dtype: str
    """Data type of their weights, a torch name."""
    chat_template_args: dict[str, Any]
    """Passed to the chat template of the policy and of a local judge, e.g. `enable_thinking: false`."""
    judge_batch_size: int = Field(ge=1)
    """Prompts that the local judge reads at once."""
    endpoint: Endpoint | None
    """Judge instead of the local model; null for the local model."""
    gold: Gold
    """Checker for the report."""
    resamples: int
    """Bootstrap samples of the interval of the agreement."""
    confidence: float
    """Coverage of the interval, 0 to 1."""
    examples: int = Field(ge=0)
    """Pairs shown in `examples.jsonl`, ties too."""


def main(config: Config, run: Run, *, model: Path, judge: Path, data: Path) -> None:
    """Write `preferences/{train,validation}.jsonl`, `judge.json` (how far to trust them) and `examples.jsonl`."""
    grade = gold_grader(run.params_file, config.gold)
    if config.sampling.samples_per_prompt < 2:
        raise ConfigError(f"{run.params_file}: sampling.samples_per_prompt: a pair takes two answers; write at least 2")
    tokenizer = load_tokenizer(model)
    rows = fitting(config, run, tokenizer, model, data)
    settings = JudgeSettings(
        endpoint=config.endpoint,
        device=config.device,
        dtype=config.dtype,
        batch_size=config.judge_batch_size,
        chat_template_args=config.chat_template_args,
    )
    opened = open_judge(judge, settings, run.params_file, "endpoint")
    policy = load_causal_lm(model, config.dtype).to(config.device)
    pairs: list[tuple[dict[str, Any], Pair]] = []
    judgements: list[Judgement] = []
    # Sampled and judged in turns, so that an endpoint that refuses is found out after the first turn.
    for start in range(0, len(rows), config.sampling.batch_size):
        part = rows[start : start + config.sampling.batch_size]
        prompts = [row["prompt"] for row in part]
        answers = sample(
            policy, tokenizer, prompts, config.sampling, config.chat_template_args, config.seed + start, lambda *_: None
        )
        new = [(row, pair) for row, each in zip(part, answers, strict=True) for pair in paired(row, texts(each), grade)]
        judgements += judge_pairs(opened.judge, opened.constitution, [pair for _, pair in new])
        pairs += new
        run.progress.update(min(start + len(part), len(rows)), len(rows), "sampling and judging", pairs=len(pairs))
    write(config, run, opened.judge, pairs, judgements)
    if isinstance(opened.judge, EndpointJudge):
        run.measure(judge_requests=opened.judge.requests, judge_replies_kept=opened.judge.cached)


def write(
    config: Config, run: Run, judge: Judge, pairs: list[tuple[dict[str, Any], Pair]], judgements: list[Judgement]
) -> None:
    """Write the artifact's files. Raises DataError when a split is left without a label."""
    summary = {
        **figures(
            [pair for _, pair in pairs],
            judgements,
            resamples=config.resamples,
            confidence=config.confidence,
            seed=config.seed,
        ),
        **judge.usage(),
    }
    words = ", ".join(f"{name} {value:.4g}" for name, value in summary.items() if value is not None)
    log.info("judge %s: %s", judge.name, words)
    preferences = labelled(pairs, judgements)
    for split, rows in preferences.items():
        if not rows:
            raise DataError(
                f"{run.params_file}: the judge ({judge.name}) labelled no pair of the {split} prompts ({words}); "
                f"with a position_bias near 0 or 1 it goes by the place: train it longer (judge.yaml) or take another; "
                f"without pairs raise sampling.temperature or prompts"
            )
    for split, rows in preferences.items():
        artifact.write_jsonl(run.out / "preferences" / f"{split}.jsonl", rows)
    examples = zip(pairs[: config.examples], judgements, strict=False)
    artifact.write_jsonl(run.out / "examples.jsonl", [_example(pair, verdict) for (_, pair), verdict in examples])
    artifact.write_json(run.out / "judge.json", {"judge": judge.name, **summary})


def labelled(pairs: list[tuple[dict[str, Any], Pair]], judgements: list[Judgement]) -> dict[str, list[dict[str, Any]]]:
    """Make rows for DPO, by split, of the pairs on which the judge decided; a row's id counts all pairs."""
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for number, ((row, pair), verdict) in enumerate(zip(pairs, judgements, strict=True)):
        if verdict.winner is not None:
            name = f"{row['id']}-{number}"
            rows[row["split"]].append(_preference(name, row["prompt"], pair, verdict.winner))
    return rows


def gold_grader(params: Path, gold: Gold) -> Callable[[dict[str, Any], str], float]:
    """Make a function of a row and an answer that sums the gold metrics.

    Raises:
        ConfigError: no such grader, or it gives no such metric.
    """
    functions = {
        name: function
        for name, function in vars(graders).items()
        if inspect.isfunction(function) and list(inspect.signature(function).parameters) == ["doc", "results"]
    }
    if gold.grader not in functions:
        raise ConfigError(f"{params}: gold.grader: no grader '{gold.grader}'{suggest(gold.grader, functions)}")
    grader = functions[gold.grader]
    metrics = grader({"answer": "1"}, ["1"])
    for metric in gold.metrics:
        if metric not in metrics:
            raise ConfigError(f"{params}: gold.metrics: {gold.grader} gives no '{metric}'{suggest(metric, metrics)}")

    def grade(row: dict[str, Any], answer: str) -> float:
        scores = grader(row, [answer])
        return sum(scores[metric] for metric in gold.metrics)

    return grade


def prompt_rows(data: Path, config: Config, split: str) -> list[dict[str, Any]]:
    """Read the prompts of a split that are asked, with `split`. Raises DataError when there are none."""
    limit = config.prompts.train if split == "train" else config.prompts.validation
    return [{**row, "split": split} for row in training_rows.read(data, config.dataset, split)[:limit]]


def fitting(config: Config, run: Run, tokenizer: Any, model: Path, data: Path) -> list[dict[str, Any]]:
    """Read the prompts of both splits that leave room for a whole answer; the others are named, and in `audit.json`.

    Raises:
        DataError: no such set, or no prompt leaves room.
    """
    limit = row_audit.longest_prompt(model, config.sampling.max_new_tokens, "sampling.max_new_tokens")
    audit: dict[str, audit_record.Record] = {}
    prompts: list[dict[str, Any]] = []
    for split in ("train", "validation"):
        rows = prompt_rows(data, config, split)
        fates = row_fates.prompts(rows, tokenizer, limit.tokens, config.chat_template_args)
        audit[split] = row_audit.count(rows, fates, config.dataset, limit)
        lost = audit_record.sentence(audit[split])
        if audit[split]["left_out"] == len(rows):
            raise DataError(f"{split_file(data, config.dataset, split)}: {lost}; {limit.remedy} in {run.params_file}")
        if lost:
            log.warning("warning: %s: %s", split, lost)
        prompts += [row for row, fate in zip(rows, fates, strict=True) if fate.state == "used"]
    row_audit.write(run, audit)
    return prompts


def paired(row: dict[str, Any], answers: Sequence[str], grade: Callable[[dict[str, Any], str], float]) -> list[Pair]:
    """Pair the distinct answers to a prompt, two by two in the order drawn; none of them is empty."""
    distinct = [text for text in dict.fromkeys(answers) if text]
    question = spoken(row["prompt"])
    return [
        Pair(question, (a, b), (grade(row, a), grade(row, b)))
        for a, b in zip(distinct[::2], distinct[1::2], strict=False)
    ]


def _preference(name: str, prompt: Any, pair: Pair, winner: int) -> dict[str, Any]:
    chosen, rejected = ([{"role": "assistant", "content": pair.answers[i]}] for i in (winner, 1 - winner))
    agrees = None if pair.best is None else pair.best == winner
    return {
        "id": name,
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "source": "judge",
        "gold_agrees": agrees,
    }


def _example(pair: Pair, verdict: Judgement) -> dict[str, Any]:
    return {
        "question": pair.question,
        "answers": list(pair.answers),
        "first_wins": [verdict.forward, verdict.reverse],
        "winner": verdict.winner,
        "gold": pair.best,
    }


if __name__ == "__main__":
    stage(main, Config)
