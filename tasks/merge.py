"""Merging: models of one family into one, without training (Wortsman et al., "Model soups", arXiv:2203.05482).

    linear           the members' weights, averaged (arXiv:2203.05482)
    slerp            along the arc from the first member to the second (Shoemake 1985), each tensor a vector
    task_arithmetic  the base and the sum of the members' differences from it (Ilharco et al., arXiv:2212.04089)
    ties             of each difference the largest entries, of each entry those of the prevailing sign
                     (Yadav et al., arXiv:2306.01708)
    dare_ties        entries dropped at random and the rest scaled up, signs as in TIES (Yu et al., arXiv:2311.03099)
    adapters         LoRA adapters, by PEFT (`tasks/merging/adapters.py`); the others are mergekit's

`--method` names the entry of `methods:` that runs. Every candidate of the method's grid
is merged and answers held-out validation rows; the one with the best average over `metrics` is written. A metric has
the name of the evaluation's metric that it stands for, `task.metric`, so that the report can average the same over the
test questions, which chose nothing. The score that a candidate was chosen by flatters it; the test's does not.

One candidate of `merge.json`:

    {"parameters": {"lambda": 1.0, "weight": [1.0, 1.0]}, "scores": {"sums.helpful": 0.57, …}, "average": 0.46}

What it leaves out: weights for each layer, evolutionary search, members of different shapes or tokenizers (refused).
"""

import itertools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, StringConstraints, model_validator

from tasks.grading.average import Scores, average_difference
from tasks.grading.bootstrap import verdict
from tasks.merging import adapters as adapter_merging
from tasks.merging import weights as merging
from tasks.merging.validation import Metric, Validation
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.sampling.sample import SamplingSettings
from tasks.stage import artifact
from tasks.stage.config import StageConfig, Strict, suggest
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage


class Method(Strict):
    """One way to merge, with the values to try."""

    merge_method: Literal["linear", "slerp", "task_arithmetic", "ties", "dare_ties", "adapters"]
    """Name of mergekit's method; `adapters` is PEFT's."""
    grid: dict[str, list[Any]]
    """Parameter of the method to the values tried, in all combinations. A value that is a list has one for each
    member."""


class Config(StageConfig):
    """`params/<recipe>/merge.yaml`."""

    device: str
    """Device on which candidates answer: `cpu`, `cuda`, `cuda:1`. They are merged on the CPU."""
    dtype: str
    """Data type of the weights, when they answer and as written; they are merged in float32."""
    methods: dict[str, Method]
    """Name of the method to how it merges."""
    metrics: dict[Annotated[str, StringConstraints(pattern=r"^\w+\.\w+$")], Metric] = Field(min_length=1)
    """`task.metric` of the evaluation to its measurement on validation rows. `weight` is that in the average."""
    sampling: SamplingSettings
    """SamplingSettings of the answers."""
    chat_template_args: dict[str, Any]
    """Arguments passed to the chat template."""
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


class Search(NamedTuple):
    """Candidates of a grid, merged and scored."""

    candidates: list[dict[str, Any]]
    """Rows of `merge.json`, in the order of the grid."""
    best: int
    """Number of the candidate with the highest average; of equal ones the first."""
    scores: Scores
    """Scores of the best candidate."""


def main(config: Config, run: Run, *, model: Path, data: Path, first: Path, second: Path) -> None:
    """Merge `first` and `second`, both made from `model`, and write the best candidate and `merge.json`."""
    method = config.methods[run.method]
    members = {first.name: first, second.name: second}
    if len(members) < 2:
        raise ConfigError(f"{run.params_file}: --first and --second are both called '{first.name}'; merge two models")
    validation = Validation(
        config.metrics,
        data,
        run,
        sampling=config.sampling,
        chat_template_args=config.chat_template_args,
        seed=config.seed,
        device=config.device,
        dtype=config.dtype,
    )
    merging.check_alike(model, members)
    with run.timed("import"):
        combinations = grid(method, run, len(members))
    models_by_name = {model.name: model, **members}
    total = len(combinations) + len(models_by_name)
    scores = {name: validation.score(folder, name, total) for name, folder in models_by_name.items()}

    def merge_candidate(parameters: dict[str, Any], out: Path) -> dict[str, Any]:
        return _merge(method, parameters, model, members, out, config)

    scratch = run.out / "candidates"
    search = _search(combinations, merge_candidate, validation, scratch, total)
    save_model(load_causal_lm(scratch / "best", config.dtype), load_tokenizer(model), run.out)
    shutil.rmtree(scratch)
    artifact.write_json(run.out / "merge.json", _report(config, method, validation, list(members), scores, search))


def _merge(
    method: Method,
    parameters: dict[str, Any],
    model: Path,
    members: Mapping[str, Path],
    out: Path,
    config: Config,
) -> dict[str, Any]:
    """Merge one candidate into the folder `out`, and return its part of a row of `merge.json`."""
    if method.merge_method == "adapters":
        shares = adapter_merging.merge(
            parameters=parameters, model=model, members=members, out=out, seed=config.seed, dtype=config.dtype
        )
        return {"parameters": parameters, "held": shares}
    merging.merge(
        method=method.merge_method,
        parameters=parameters,
        model=model,
        members=members,
        out=out,
        seed=config.seed,
        dtype=config.dtype,
    )
    return {"parameters": parameters}


def _search(
    combinations: list[dict[str, Any]],
    merge_candidate: Callable[[dict[str, Any], Path], dict[str, Any]],
    validation: Validation,
    scratch: Path,
    total: int,
) -> Search:
    """Merge and score every combination of parameters; the folder of the best one stays in `scratch/best`."""
    candidates: list[dict[str, Any]] = []
    best = 0
    best_scores: Scores = {}
    for number, parameters in enumerate(combinations):
        candidate = merge_candidate(parameters, scratch / "new")
        scores = validation.score(scratch / "new", "candidates", total)
        candidates.append({**candidate, **validation.summary(scores)})
        if number == 0 or candidates[-1]["average"] > candidates[best]["average"]:
            best = number
            best_scores = scores
            shutil.rmtree(scratch / "best", ignore_errors=True)
            (scratch / "new").rename(scratch / "best")
    return Search(candidates, best, best_scores)


def _report(
    config: Config,
    method: Method,
    validation: Validation,
    members: list[str],
    scores: Mapping[str, Scores],
    search: Search,
) -> dict[str, Any]:
    """Return the content of `merge.json`, with the best candidate's difference from the member that scores best."""
    best_member = max(members, key=lambda name: validation.average(scores[name]))
    difference = average_difference(
        search.scores,
        scores[best_member],
        validation.weights,
        resamples=config.resamples,
        confidence=config.confidence,
        seed=config.seed,
    )
    return {
        "method": method.merge_method,
        "metrics": validation.sources(),
        "models": {name: validation.summary(scores[name]) for name in scores},
        "members": members,
        "candidates": search.candidates,
        "chosen": search.best,
        "ahead": best_member,
        "difference": {**asdict(difference), "verdict": verdict(difference, higher_is_better=True)},
        "graders": validation.rewards.report(),
    }


def grid(method: Method, run: Run, members: int) -> list[dict[str, Any]]:
    """Return every combination of the method's values.

    Raises:
        ConfigError: a parameter that the method does not have, no value, or a list that has not one for each member.
    """
    adapters = method.merge_method == "adapters"
    names = adapter_merging.PARAMETERS if adapters else merging.parameter_names(method.merge_method)
    for name, choices in method.grid.items():
        where = f"{run.params_file}: methods.{run.method}.grid.{name}"
        if name not in names:
            raise ConfigError(f"{where}: {method.merge_method} has no such parameter{suggest(name, names)}")
        if not choices:
            raise ConfigError(f"{where}: no value to try; give at least one")
        for value in choices:
            if isinstance(value, list) and len(value) != members:
                raise ConfigError(f"{where}: {value} has {len(value)} values for {members} members; give one for each")
    return [dict(zip(method.grid, values, strict=True)) for values in itertools.product(*method.grid.values())]


if __name__ == "__main__":
    stage(main, Config)
