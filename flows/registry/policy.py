"""What a model must show before it becomes the champion: one section of `mlflow/gates.yaml` for each recipe."""

from fnmatch import fnmatch
from pathlib import Path

from pydantic import Field

from flows.registry.grounding import Bounds
from flows.registry.sight import Sight
from tasks.stage.config import Strict, parse, read_yaml, suggest
from tasks.stage.errors import ConfigError

POLICY = Path("mlflow/gates.yaml")


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

    metric: str
    """Task and metric, e.g. `sums.helpful`."""
    gain: float
    """Least gain at the interval's low end, exclusive, in the metric's unit; 0 asks for any gain that is no chance."""


class Policy(Strict):
    """One recipe's section of `mlflow/gates.yaml`."""

    form: str
    """Exported form that is served: `fp32`, `int8`, `int4`."""
    served_loss: float = Field(ge=0)
    """Most that form may score below its PyTorch model on the quality metric, in its unit, on the same rows."""
    quality: Quality
    regression: dict[str, float | None]
    """Pattern of `task.metric` to the loss that is tolerated, in the metric's unit: the first that matches counts, the
    interval's low end must lie above minus it, null tolerates any. Every metric must match one."""
    bootstrap: Bootstrap
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
    """Read a recipe's policy.

    Args:
        recipe: name of the recipe.
        path: file with the policies.
        data: data set of pictures, sounds or passages that the candidate is compared on; None for a model of words.

    Raises:
        ConfigError: no such section, a wrong one, or one for pictures or passages without its own bounds.
    """
    name = recipe if data is None else f"{recipe}/{data}"
    sections = read_yaml(path)
    if name not in sections:
        what = "from this recipe" if data is None else f"a model that is asked about {data}"
        raise ConfigError(f"{path}: no section '{name}'{suggest(name, sections)}; add one to promote {what}")
    policy = parse(Path(f"{path}: {name}"), sections[name], Policy)
    if data is not None and policy.sight is None and policy.grounding is None:
        example = "{control: other, gain: 0.3}, or for a reader `grounding`"
        raise ConfigError(f"{path}: {name}: missing key 'sight', e.g. {example}")
    return policy


def bound(metric: str, policy: Policy) -> float | None:
    """Find the loss that a metric may show; None for any. Raises ConfigError when the policy says nothing about it."""
    for pattern, tolerated in policy.regression.items():
        if fnmatch(metric, pattern):
            return tolerated
    raise ConfigError(
        f"{POLICY}: no pattern under 'regression' matches {metric}; add one with its bound, or null for none"
    )
