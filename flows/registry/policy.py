"""What a model must show before it becomes the champion: `mlflow/gates.yaml`.

`default:` holds for every recipe; a recipe's own section overrides it key by key, at any depth. Where neither names the
metric that must rise, it is the candidate's claim, stated or by default (`tasks/grading/claims.py`).
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field

from flows.registry.grounding import Bounds
from flows.registry.sight import Sight
from tasks.stage import recipe as graphs
from tasks.stage.config import Strict, nearest, parse, read_yaml, suggest
from tasks.stage.errors import ConfigError
from tasks.stage.recipe import Graph

POLICY = Path("mlflow/gates.yaml")
DEFAULT = "default"
"""Section that holds for every recipe, but for the keys that the recipe's own section has."""
MEDIA = f"{DEFAULT}/media"
"""Section that holds besides for models that are asked about pictures or sounds."""
PASSAGES = f"{DEFAULT}/passages"
"""Section that holds besides for readers, which are asked with passages of an index."""
BY_REWARDS = frozenset({
    "dpo", "kto", "ppo", "rlaif", "online_dpo", "grpo", "rejection", "refine", "vlm_dpo", "vlm_grpo", "reader_dpo",
})  # fmt: skip
"""Methods that learn from preferences or rewards."""


class Bootstrap(Strict):
    """The interval that decides."""

    resamples: int = Field(ge=100)
    """Bootstrap samples."""
    confidence: float = Field(gt=0, lt=1)
    """Coverage of the interval, 0 to 1."""
    seed: int
    """Seed of the resampling."""


class Quality(Strict):
    """Metric that the candidate must be better at."""

    metric: str | None
    """Task and metric, e.g. `sums.helpful`; null takes the candidate's claim."""
    gain: float
    """Least gain at the interval's low end, exclusive, in the metric's unit; 0 asks for any gain that is no chance."""


class Losses(Strict):
    """Bounds of a metric whose meaning depends on the method, such as the likelihood of given replies.

    Fine-tuning is there to raise it. A method that learns from preferences or rewards leaves the distribution that
    fine-tuning taught, also where its answers get better ("likelihood displacement", Razin et al., 2024): what is to be
    refused there is a collapse.
    """

    usual: float | None
    """Loss that is tolerated of other models; null tolerates any."""
    rewarded: float | None
    """The same of a model that learnt from preferences or rewards, over the champion and over its parent, which is what
    its method keeps it near to: else several promotions could lose as much each."""


class Policy(Strict):
    """A recipe's section of `mlflow/gates.yaml`, over the default one."""

    form: str
    """Exported form that is served: `fp32`, `int8`, `int4`."""
    served_loss: float = Field(ge=0)
    """Most that form may score below its PyTorch model on the quality metric, in its unit, on the same rows."""
    quality: Quality
    regression: dict[str, float | Losses | None]
    """Pattern of `task.metric` to the loss that is tolerated, in the metric's unit, or to one for each kind of method:
    the first that matches counts, the interval's low end must lie above minus it, null tolerates any. Every metric must
    match one. Brackets, as in `gsm8k.exact_match[strict-match]`, stand for themselves."""
    bootstrap: Bootstrap
    least_rows: int | None = Field(default=None, ge=1)
    """Fewest rows that both models answered; with fewer, the interval says little, and there is no comparison. Null, or
    no such key, takes any number."""
    allow_changed_evaluation: bool
    """Permission to compare on shared rows alone when the champion was asked other rows, or with another task file."""
    allow_dirty: bool
    """Permission to promote from a working copy with uncommitted changes. That it was dirty is recorded either way."""
    sight: Sight | None = None
    """Control that the quality metric must lie above; of a section for a data set of pictures or sounds, and
    there needed."""
    grounding: Bounds | None = None
    """Bounds of a reader, which answers from the passages of an index; of a section for its rows, and there needed."""


def load_policy(recipe: str, path: Path = POLICY, data: str | None = None) -> Policy:
    """Read a recipe's policy: its own section over the default one.

    Args:
        recipe: name of the recipe.
        path: file with the policies.
        data: data set of pictures, sounds or passages that the candidate is compared on; None for a model of words.

    Returns:
        The policy; its quality metric may be null, see `main_metric`.

    Raises:
        ConfigError: neither such a section nor a default one, a wrong one, or one for pictures or passages without its
            own bounds.
    """
    name = section_name(recipe, data)
    sections = read_yaml(path)
    if name not in sections:
        _require_default(name, sections, path)
    asked = PASSAGES if data is not None and _reads(recipe, data) else MEDIA
    own, shared, besides = (_section(path, sections, key) for key in (name, DEFAULT, asked))
    if shared:  # by itself, so that its mistakes are not said to be those of `name`
        parse(Path(f"{path}: {DEFAULT}"), shared, Policy)
    if data is not None and (asked == PASSAGES or "grounding" not in own):
        shared = overridden(shared, besides)
    policy = parse(Path(f"{path}: {name}"), overridden(shared, own), Policy)
    if data is not None and policy.sight is None and policy.grounding is None:
        example = "{control: other, gain: 0.3}, or for a reader `grounding`"
        missing = f"{name}: missing key 'sight'" if own else f"no section '{name}', which has to have a key 'sight'"
        raise ConfigError(f"{path}: {missing}, e.g. {example}")
    return policy


def _reads(recipe: str, data: str) -> bool:
    """Whether a data set of a recipe is one of questions with passages in their prompts, by the recipe's graph."""
    path = Path("params", recipe, graphs.FILE)
    made = graphs.read(path).models.get(data) if path.is_file() else None
    return made is not None and made.method == graphs.RAFT


def _require_default(name: str, sections: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError where nothing holds for a recipe without a section, or where its section seems misspelt."""
    if DEFAULT not in sections:
        hint = suggest(name, sections)
        raise ConfigError(f"{path}: no section '{name}'{hint}; add one, or a section '{DEFAULT}' for every recipe")
    recipes = {other: other.partition("/")[0] for other in sections}
    orphans = [other for other, of in recipes.items() if of != DEFAULT and not Path("params", of).is_dir()]
    if (near := nearest(name, orphans, 0.8)) is not None:
        raise ConfigError(
            f"{path}: no section '{name}', and '{near}' is of no recipe in params/; if you meant '{name}', rename it, "
            f"else remove it"
        )


def section_name(recipe: str, data: str | None) -> str:
    """Name a recipe's section, or the one of a data set of its: `tiny`, `tiny/pictures`."""
    return recipe if data is None else f"{recipe}/{data}"


def is_default(recipe: str, path: Path = POLICY, data: str | None = None) -> bool:
    """Whether a recipe has no section of its own, and the default one alone holds for it. Raises ConfigError."""
    return section_name(recipe, data) not in read_yaml(path)


def _section(path: Path, sections: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = sections.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: '{name}' is {section!r}; expected a mapping of keys to values, see the others")
    return section


def overridden(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Override a mapping key by key, at any depth.

    The keys of `own` come first: of patterns, the first that matches counts, so a recipe's own are tried before the
    shared ones.
    """
    merged = dict(own)
    for key, value in shared.items():
        if key not in own:
            merged[key] = value
        elif isinstance(value, Mapping) and isinstance(own[key], Mapping):
            merged[key] = overridden(value, own[key])
    return merged


def with_metric(policy: Policy, claim: str | None) -> Policy:
    """Give a policy that names no quality metric the candidate's claim."""
    if policy.quality.metric is not None or claim is None:
        return policy
    return policy.model_copy(update={"quality": policy.quality.model_copy(update={"metric": claim})})


def main_metric(policy: Policy) -> str:
    """Name the metric that must rise. Raises ConfigError where neither the policy nor a claim names one."""
    if policy.quality.metric is None:
        raise ConfigError(
            f"{POLICY}: quality.metric is null, and the candidate has no claim: name its metric there, or as `claim` "
            f"in the recipe's graph"
        )
    return policy.quality.metric


def by_rewards(model: str, graph: Graph) -> bool:
    """Whether a model, or one that it was made from, learnt from preferences or rewards.

    Args:
        model: name of the model.
        graph: the recipe's graph.
    """
    met, ahead = set(), [model]
    while ahead:
        name = ahead.pop()
        if name in graph.models and name not in met:
            met.add(name)
            ahead += graph.models[name].parents.values()
    return any(graph.models[name].method in BY_REWARDS for name in met)


def bound(metric: str, policy: Policy, *, rewarded: bool = False) -> float | None:
    """Find the loss that a metric may show; None for any.

    Args:
        metric: `task.metric`.
        policy: the recipe's.
        rewarded: whether the candidate learnt from preferences or rewards.

    Raises:
        ConfigError: the policy says nothing about the metric.
    """
    tolerated = _tolerated(metric, policy)
    if isinstance(tolerated, Losses):
        return tolerated.rewarded if rewarded else tolerated.usual
    return tolerated


def beside_parent(metric: str, policy: Policy) -> bool:
    """Whether a model that learnt from preferences or rewards is held against its parent too. Raises ConfigError."""
    return isinstance(_tolerated(metric, policy), Losses)


def _tolerated(metric: str, policy: Policy) -> float | Losses | None:
    for pattern, tolerated in policy.regression.items():
        if fnmatchcase(metric, pattern.replace("[", "[[]")):  # of a filter, and no class of characters
            return tolerated
    raise ConfigError(
        f"{POLICY}: no pattern under 'regression' matches {metric}; add one with its bound, or null for none"
    )
