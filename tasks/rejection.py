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
from tasks.sampling.sample import sample, texts
from tasks.self_training import rounds
from tasks.self_training.revision import Messages
from tasks.self_training.rounds import RoundsConfig, Rows, trainer_class
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run, stage
from tasks.training import fates

__all__ = ["Config", "main", "row_rule", "trainer_class"]

row_rule = fates.prompts


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
    prompts, record = rounds.training_prompts(config, run, tokenizer, model, data)
    _check(config, run, data, prompts)

    def keep(policy: Any, window: Rows, number: int) -> tuple[Rows, dict[str, Any]]:
        return collect(config, rewards, policy, tokenizer, window, number, run)

    audit = {"prompts": record}
    rounds.run_rounds(config, run, keep, model=model, tokenizer=tokenizer, data=data, prompt_rows=prompts, audit=audit)


def collect(
    config: Config, rewards: Rewards, policy: Any, tokenizer: Any, prompts: Rows, number: int, run: Run
) -> tuple[Rows, dict[str, Any]]:
    """Sample, grade, keep.

    Returns:
        Rows `{"messages": […]}` to learn from, and the round's counts.

    Raises:
        DataError: not one answer reached the bar.
    """
    failures = sum(rewards.failures.values())
    seed = config.seed + 1000 * number

    def right_answers(rows: Rows, conversations: Sequence[Messages], offset: int, label: str) -> list[list[str]]:
        """Sample for each row the answers that reach the bar, repeats included."""

        def report(done: int, total: int) -> None:
            run.progress.update(done, total, f"round {number + 1}: {label}")

        settings = config.chat_template_args
        answers = sample(policy, tokenizer, conversations, config.sampling, settings, seed + offset, report)
        return [_passing(config, rewards, row, texts(each)) for row, each in zip(rows, answers, strict=True)]

    passing = right_answers(prompts, [row["prompt"] for row in prompts], 0, "sampling")
    n_samples = len(prompts) * config.sampling.samples_per_prompt
    n_passing = sum(map(len, passing))
    unsolved = [i for i, answers in enumerate(passing) if not answers]
    if config.hint is not None and unsolved:
        rows = [prompts[i] for i in unsolved]
        hinted = right_answers(rows, [_hinted(config.hint, row) for row in rows], 500, "rationalising")
        for i, answers in zip(unsolved, hinted, strict=True):
            passing[i] = answers
    rows_to_learn = [
        {"messages": [*row["prompt"], {"role": "assistant", "content": text}]}
        for row, answers in zip(prompts, passing, strict=True)
        for text in list(dict.fromkeys(answers))[: config.keep_per_prompt]
    ]
    if not rows_to_learn:
        raise DataError(
            f"{run.params_file}: round {number + 1}: none of {n_samples} sampled answers reached accept = "
            f"{config.accept:g}; ask easier prompts, sample more, or start from a better model"
        )
    return rows_to_learn, {
        "prompts": len(prompts),
        "samples": n_samples,
        "pass_rate": round(n_passing / n_samples, 4),
        "solved": len(prompts) - len(unsolved),
        "rationalised": sum(bool(passing[i]) for i in unsolved),
        "kept": len(rows_to_learn),
        "raised": sum(rewards.failures.values()) - failures,
    }


def _passing(config: Config, rewards: Rewards, row: Mapping[str, Any], answers: list[str]) -> list[str]:
    """Keep the answers that reach the bar, in the order drawn."""
    view = {"question": row["prompt"][-1]["content"], **row}
    totals = rewards.totals(answers, [view] * len(answers))
    return [text for text, total in zip(answers, totals, strict=True) if total >= config.accept]


def _check(config: Config, run: Run, data: Path, prompts: Rows) -> None:
    """Find what would only be found out after the sampling. Raises ConfigError or DataError."""
    rounds.check_replay(config, run, data)
    if config.hint is not None:
        try:
            _hinted(config.hint, prompts[0])
        except (KeyError, IndexError, ValueError) as e:
            raise ConfigError(
                f"{run.params_file}: hint: {e!r}; it may name {{question}} and {{answer}}, and other braces are doubled"
            ) from None


def _hinted(hint: str, row: Mapping[str, Any]) -> Messages:
    """Put the hint in the place of the question."""
    *before, last = row["prompt"]
    return [*before, {**last, "content": hint.format(question=last["content"], answer=row["answer"])}]


if __name__ == "__main__":
    stage(main, Config)
