"""Merging: models of one family into one, without training (Wortsman et al., "Model soups", arXiv:2203.05482).

    linear           the members' weights, averaged (arXiv:2203.05482)
    slerp            along the arc from the first member to the second (Shoemake 1985), each tensor a vector
    task_arithmetic  the base and the sum of the members' differences from it (Ilharco et al., arXiv:2212.04089)
    ties             of each difference the largest entries, of each entry those of the prevailing sign
                     (Yadav et al., arXiv:2306.01708)
    dare_ties        entries dropped at random and the rest scaled up, signs as in TIES (Yu et al., arXiv:2311.03099)
    adapters         LoRA adapters, by PEFT (`tasks/merging/adapters.py`); the others are mergekit's

`--method` names the entry of `methods:` that runs. Every candidate of the method's grid
is merged and answers held-out validation rows; the one with the best average over `metrics` is written. A metric bears
the name of the one of the evaluation that it stands for, `task.metric`, so that the report can average the same over
the test questions, which chose nothing. The score that a candidate was chosen by flatters it; the test's does not.

One candidate of `merge.json`:

    {"parameters": {"lambda": 1.0, "weight": [1.0, 1.0]}, "scores": {"sums.helpful": 0.57, …}, "average": 0.46}

What it leaves out: weights for each layer, evolutionary search, members of different shapes or tokenizers (refused).
"""

import itertools
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tasks.grading.average import Scores, average, difference
from tasks.grading.bootstrap import verdict
from tasks.merging import adapters as adapter_merging
from tasks.merging import weights as merging
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.rewards.composite import Rewards, RewardSpec
from tasks.sampling.sample import SamplingSettings, sample
from tasks.stage import artifact
from tasks.stage.config import StageConfig, Strict, suggest
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage
from tasks.training import rows as training_rows


class Metric(RewardSpec):
    """What the candidates are chosen by: a grader, and the rows it grades the answers to."""

    dataset: str
    """Set of the data artifact; its validation rows are asked."""
    rows: int | None = Field(gt=0)
    """Rows to ask, from the first; null asks all."""


class Method(Strict):
    """One way to merge, and what is tried."""

    merge_method: Literal["linear", "slerp", "task_arithmetic", "ties", "dare_ties", "adapters"]
    """Of mergekit; `adapters` of PEFT."""
    grid: dict[str, list[Any]]
    """Parameter of the method to the values tried, in all combinations. A value that is a list has one for each
    member."""


class Config(StageConfig):
    """`params/<recipe>/merge.yaml`."""

    device: str
    """Where candidates answer: `cpu`, `cuda`, `cuda:1`. They are merged on the CPU."""
    dtype: str
    """Data type of the weights, when they answer and as written; they are merged in float32."""
    methods: dict[str, Method]
    """Name of the method to how it merges."""
    metrics: dict[Annotated[str, StringConstraints(pattern=r"^\w+\.\w+$")], Metric] = Field(min_length=1)
    """`task.metric` of the evaluation to how it is measured on validation rows. `weight` is that in the average."""
    sampling: SamplingSettings
    """How they answer."""
    chat_template_args: dict[str, Any]
    """Passed to the chat template."""
    resamples: int
    """Bootstrap samples of the interval."""
    confidence: float
    """Coverage of the interval, 0 to 1."""

    @model_validator(mode="after")
    def _weighed(self) -> Self:
        weights = [metric.weight for metric in self.metrics.values()]
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError("the weights of metrics must not be negative, and not all 0")
        return self


class Validation:
    """Held-out rows, and what a model folder scores on them."""

    def __init__(self, config: Config, run: Run, data: Path) -> None:
        self._config, self._run, self._done = config, run, 0
        self._rows = {
            name: training_rows.read(data, metric.dataset, "validation")[: metric.rows]
            for name, metric in config.metrics.items()
        }
        self.rewards = Rewards(config.metrics, run.params_file)
        self.weights = {name: metric.weight for name, metric in config.metrics.items() if metric.weight}
        self.metrics = {
            name: {"dataset": metric.dataset, "rows": len(self._rows[name]), "weight": metric.weight}
            for name, metric in config.metrics.items()
        }

    def score(self, folder: Path, label: str, total: int) -> dict[str, dict[str, float]]:
        """Metric to the score of each row, by its id. Reports one more of `total` as done."""
        config = self._config
        model, tokenizer = load_causal_lm(folder, config.dtype).to(config.device), load_tokenizer(folder)
        found: dict[str, dict[str, float]] = {}
        answered: dict[tuple[str, int | None], list[str]] = {}
        for name, metric in config.metrics.items():
            rows, asked = self._rows[name], (metric.dataset, metric.rows)
            if asked not in answered:  # two metrics may be of the same answers
                prompts = [row["prompt"] for row in rows]
                args = config.sampling, config.chat_template_args, config.seed
                drawn = sample(model, tokenizer, prompts, *args, lambda done, total: None)
                answered[asked] = [answers[0].text for answers in drawn]
            scores = self.rewards.score(name, answered[asked], rows)
            found[name] = {row["id"]: score for row, score in zip(rows, scores, strict=True)}
        self._done += 1
        self._run.progress.update(self._done, total, label, average=average(found, self.weights))
        return found

    def summary(self, scores: Scores) -> dict[str, Any]:
        """Mean of each metric, and their average."""
        means = {name: math.fsum(rows.values()) / len(rows) for name, rows in scores.items()}
        return {"scores": means, "average": average(scores, self.weights)}


def main(config: Config, run: Run, *, model: Path, data: Path, first: Path, second: Path) -> None:
    """Merge `first` and `second`, both made from `model`, and write the best candidate and `merge.json`."""
    method = config.methods[run.method]
    members = {first.name: first, second.name: second}
    if len(members) < 2:
        raise ConfigError(f"{run.params_file}: --first and --second are both called '{first.name}'; merge two models")
    validation = Validation(config, run, data)
    merging.check_alike(model, members)
    with run.timed("import"):
        candidates = grid(method, run, len(members))
    sides = {model.name: model, **members}
    total = len(candidates) + len(sides)
    scores = {name: validation.score(folder, name, total) for name, folder in sides.items()}
    tried: list[dict[str, Any]] = []
    best, chosen, scratch = 0, Scores(), run.out / "candidates"
    for number, parameters in enumerate(candidates):
        inputs = parameters, model, members, scratch / "new", config.seed, config.dtype
        if method.merge_method == "adapters":
            held = {"held": adapter_merging.merge(*inputs)}
        else:
            held = {}
            merging.merge(method.merge_method, *inputs)
        found = validation.score(scratch / "new", "candidates", total)
        tried.append({"parameters": parameters, **held, **validation.summary(found)})
        if number == 0 or tried[-1]["average"] > tried[best]["average"]:
            best, chosen = number, found
            shutil.rmtree(scratch / "best", ignore_errors=True)
            (scratch / "new").rename(scratch / "best")
    save_model(load_causal_lm(scratch / "best", config.dtype), load_tokenizer(model), run.out)
    shutil.rmtree(scratch)
    ahead = max(members, key=lambda name: average(scores[name], validation.weights))
    settings: dict[str, Any] = {k: getattr(config, k) for k in ("resamples", "confidence", "seed")}
    gap = difference(chosen, scores[ahead], validation.weights, **settings)
    summary = {
        "method": method.merge_method,
        "metrics": validation.metrics,
        "models": {name: validation.summary(scores[name]) for name in scores},
        "members": list(members),
        "candidates": tried,
        "chosen": best,
        "ahead": ahead,
        "difference": {**asdict(gap), "verdict": verdict(gap, higher_is_better=True)},
        "graders": validation.rewards.report(),
    }
    artifact.write_json(run.out / "merge.json", summary)


def grid(method: Method, run: Run, members: int) -> list[dict[str, Any]]:
    """Every combination of the method's values.

    Raises:
        ConfigError: a parameter that the method does not have, no value, or a list that has not one for each member.
    """
    adapters = method.merge_method == "adapters"
    known = adapter_merging.PARAMETERS if adapters else merging.parameter_names(method.merge_method)
    for name, tried in method.grid.items():
        where = f"{run.params_file}: methods.{run.method}.grid.{name}"
        if name not in known:
            raise ConfigError(f"{where}: {method.merge_method} has no such parameter{suggest(name, known)}")
        if not tried:
            raise ConfigError(f"{where}: no value to try; give at least one")
        for value in tried:
            if isinstance(value, list) and len(value) != members:
                raise ConfigError(f"{where}: {value} has {len(value)} values for {members} members; give one for each")
    return [dict(zip(method.grid, values, strict=True)) for values in itertools.product(*method.grid.values())]


if __name__ == "__main__":
    stage(main, Config)
