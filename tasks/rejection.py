"""Expert iteration: the model answers, a grader keeps what is right, the model learns from its own right answers.

One raw row: {"prompt": [{"role": "user", "content": "Add 358 and 967."}], "answer": "1325", "digits": 3}

Each round samples k answers a prompt, keeps those that reach the bar, drops repeats, and fine-tunes on what is left:
rejection-sampling fine-tuning (Yuan et al., arXiv:2308.01825), repeated as in ReST-EM (Singh et al., arXiv:2312.06585).
With `hint` and `restart` it is STaR (Zelikman et al., arXiv:2203.14465): prompts that were never answered right are
asked again with the answer given away ("rationalisation"), the answer is learnt without the hint, and each round starts
from the model it all began with, so that mistakes do not pile up. What it leaves out: weighting by difficulty, and a
verifier for the steps; a right answer by wrong steps is kept.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.models.folder import load_tokenizer
from tasks.rewards.composite import Rewards
from tasks.sampling.sample import sample
from tasks.self_training import rounds
from tasks.self_training.rounds import RoundsConfig, trainer_class
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run, stage

__all__ = ["Config", "main", "trainer_class"]


class Config(RoundsConfig):
    """`params/<recipe>/rft.yaml`, `star.yaml`."""

    keep_per_prompt: int = Field(ge=1)
    """Most answers to one prompt that are learnt, the first ones drawn."""
    hint: str | None
    """Prompt that gives the answer away, e.g. `{question} (It is {answer}.)`, for prompts never answered right."""


def main(config: Config, run: Run, *, model: Path, data: Path, judge: Path | None = None) -> None:
    """Run the rounds; write the last model, its curves over all rounds, and `rounds.json`.

    `judge` is for the grader `model_judge` only.
    """
    rewards = Rewards(config.graders, run.params_file, judge)
    with run.timed("import"):
        rounds.arguments(config, run)
    tokenizer = load_tokenizer(model)
    prompts, record = rounds.prompts(config, run, tokenizer, model, data)
    _check(config, run, data, prompts)

    def keep(policy: Any, asked: list[dict[str, Any]], number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return collect(config, rewards, policy, tokenizer, asked, number, run)

    audit = {"prompts": record}
    rounds.run_rounds(config, run, keep, model=model, tokenizer=tokenizer, data=data, asked=prompts, audit=audit)


def collect(
    config: Config,
    rewards: Rewards,
    policy: Any,
    tokenizer: Any,
    asked: list[dict[str, Any]],
    number: int,
    run: Run,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Sample, grade, keep.

    Returns:
        Rows `{"messages": […]}` to learn from, and the round's counts.

    Raises:
        DataError: not one answer reached the bar.
    """
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
    rounds.check_replay(config, run, data)
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


if __name__ == "__main__":
    stage(main, Config)
