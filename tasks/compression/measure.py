"""Measure of a model before pruning, pruned and healed: the loss of written answers, and grades of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.compression import held_out as held_out_rows
from tasks.compression.held_out import HeldOut, loss_per_token
from tasks.rewards.composite import Rewards, RewardSpec
from tasks.sampling.sample import SamplingSettings, sample
from tasks.stage.lifecycle import Run


class GradedRows(HeldOut):
    """Validation rows that the model is measured on before and after; its answers are graded."""

    batch_size: int = Field(ge=1)
    """Number of answers written at once."""


class Measure:
    """Loss and grades of a model on the validation split; rows and graders are read before anything runs."""

    def __init__(
        self, held_out: GradedRows, graders: Mapping[str, RewardSpec], seed: int, run: Run, data: Path
    ) -> None:
        """Read the rows.

        Args:
            held_out: sets, and how their prompts are answered.
            graders: name to grader of the answers.
            seed: of the sampling, which is greedy.
            run: of the stage, for the progress and the messages.
            data: data artifact.

        Raises:
            ConfigError: a grader that does not exist, or an option that it refuses.
            DataError: no such set.
        """
        self._run = run
        self._seed = seed
        self._sampling = SamplingSettings(
            samples_per_prompt=1,
            temperature=0,
            top_p=1,
            max_new_tokens=held_out.max_new_tokens,
            batch_size=held_out.batch_size,
        )
        self._chat_template_args = held_out.chat_template_args
        self._rewards = Rewards(graders, run.params_file)
        self._answers, self._prompts, self.record = held_out_rows.read(held_out, data)

    def __call__(self, model: Any, tokenizer: Any, when: str) -> dict[str, Any]:
        """Measure a model.

        Args:
            model: on its device.
            tokenizer: its tokenizer.
            when: shown with the progress: `before`, `pruned` or `healed`.

        Returns:
            `nats_per_token`, `perplexity` and `tokens` of the written answers, `grades` (mean of each grader), and the
            number of `prompts` answered.
        """
        loss = loss_per_token(model, tokenizer, self._answers)
        answers_by_prompt = sample(
            model,
            tokenizer,
            [row["prompt"] for row in self._prompts],
            self._sampling,
            self._chat_template_args,
            self._seed,
            lambda done, total: self._run.progress.update(done, total, f"measuring, {when}"),
        )
        responses = [answers[0].text for answers in answers_by_prompt]
        graded_rows = [{"question": row["prompt"][-1]["content"], **row} for row in self._prompts]
        scores = {name: self._rewards.score(name, responses, graded_rows) for name in self._rewards.names}
        grades = {name: round(sum(values) / len(values), 6) for name, values in scores.items()}
        return {**loss, "grades": grades, "prompts": len(responses)}
