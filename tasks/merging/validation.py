"""Validation of merged models: every candidate answers the same held-out rows, and graders score the answers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.grading.average import Scores, average
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.rewards.composite import Rewards, RewardSpec
from tasks.sampling.sample import SamplingSettings, sample
from tasks.stage.lifecycle import Run
from tasks.training import rows as training_rows


class Metric(RewardSpec):
    """One metric that the candidates are chosen by: a grader, and the rows whose answers it grades."""

    dataset: str
    """Set of the data artifact whose validation rows are asked."""
    rows: int | None = Field(gt=0)
    """Most rows to ask, from the first; null asks all."""


class Validation:
    """Held-out rows, and the scores of model folders on them."""

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        data: Path,
        run: Run,
        *,
        sampling: SamplingSettings,
        chat_template_args: dict[str, Any],
        seed: int,
        device: str,
        dtype: str,
    ) -> None:
        """Read the rows.

        Args:
            metrics: name to grader and rows.
            data: data artifact.
            run: of the stage, for the progress and the messages.
            sampling: of the answers.
            chat_template_args: passed to the chat template.
            seed: of the sampling.
            device: where the models answer.
            dtype: of their weights.

        Raises:
            ConfigError: a grader that does not exist, or an option that it refuses.
            DataError: no such set.
        """
        self._metrics = metrics
        self._run = run
        self._sampling = sampling
        self._chat_template_args = chat_template_args
        self._seed = seed
        self._device = device
        self._dtype = dtype
        self._done = 0
        self._rows = {
            name: training_rows.read(data, metric.dataset, "validation")[: metric.rows]
            for name, metric in metrics.items()
        }
        self.rewards = Rewards(metrics, run.params_file)
        self.weights = {name: metric.weight for name, metric in metrics.items() if metric.weight}

    def sources(self) -> dict[str, dict[str, Any]]:
        """Return for each metric its `dataset`, the number of `rows` asked, and its `weight`."""
        return {
            name: {"dataset": metric.dataset, "rows": len(self._rows[name]), "weight": metric.weight}
            for name, metric in self._metrics.items()
        }

    def score(self, folder: Path, label: str, total: int) -> Scores:
        """Grade a model's answers: for each metric the score of each row. Reports one more of `total` as done."""
        model = load_causal_lm(folder, self._dtype).to(self._device)
        tokenizer = load_tokenizer(folder)
        scores: Scores = {}
        responses: dict[tuple[str, int | None], list[str]] = {}
        for name, metric in self._metrics.items():
            rows = self._rows[name]
            questions = (metric.dataset, metric.rows)
            if questions not in responses:  # two metrics may be of the same answers
                responses[questions] = self._responses(model, tokenizer, rows)
            values = self.rewards.score(name, responses[questions], rows)
            scores[name] = {row["id"]: value for row, value in zip(rows, values, strict=True)}
        self._done += 1
        self._run.progress.update(self._done, total, label, average=self.average(scores))
        return scores

    def _responses(self, model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Draw one answer to each row's prompt."""
        answers_by_prompt = sample(
            model,
            tokenizer,
            [row["prompt"] for row in rows],
            self._sampling,
            self._chat_template_args,
            self._seed,
            lambda done, total: None,
        )
        return [answers[0].text for answers in answers_by_prompt]

    def average(self, scores: Scores) -> float:
        """Return the weighted average over the metrics."""
        return average(scores, self.weights)

    def summary(self, scores: Scores) -> dict[str, Any]:
        """Return the mean of each metric, and their average."""
        means = {name: math.fsum(rows.values()) / len(rows) for name, rows in scores.items()}
        return {"scores": means, "average": self.average(scores)}
