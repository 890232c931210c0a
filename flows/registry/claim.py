"""What a candidate is there for: the metric that must rise where the policy names none."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.grading import claims
from tasks.stage import artifact, recipe
from tasks.stage.artifact import METRICS
from tasks.stage.config import read_yaml
from tasks.stage.recipe import Graph

REPORT = "report.yaml"
"""Name of a recipe's file with its headline; it may be missing."""


@dataclass(frozen=True)
class Claim:
    """A metric, and who chose it."""

    metric: str
    """Task and metric, e.g. `sums.helpful`."""
    why: str
    """Reason in words, which names the file that says it, or that does not."""


def results(names: Iterable[str]) -> dict[str, claims.Tasks]:
    """Read the results of the models that were evaluated, as far as they are in the workspace.

    Raises:
        ArtifactError: `results.json` of an evaluation is broken.
    """
    found = [name for name in names if (METRICS / name / artifact.MANIFEST).exists()]
    return {name: artifact.read_json(METRICS / name / "results.json")["tasks"] for name in found}


def of(model: str, graph: Graph) -> Claim | None:
    """Find the claim of a model: the graph's, else the one by default, else the recipe's headline.

    Args:
        model: name of the model.
        graph: the recipe's graph.

    Returns:
        The claim; None where the model was not evaluated and nothing is stated.

    Raises:
        ArtifactError: `results.json` of an evaluation is broken.
        ConfigError: a file of the recipe cannot be read.
    """
    if model in graph.claims:
        return Claim(graph.claims[model], f"claim of '{model}' in {graph.path}")
    evaluated = results([recipe.BASE, *graph.models])
    chosen = claims.by_default(graph, evaluated)
    if model in chosen:
        method = graph.models[model].method
        return Claim(chosen[model], f"claim by default: what {method} is there for, as {graph.path} states no claim")
    stated = headline(graph)
    if stated is not None:
        return Claim(stated, f"headline of {graph.path.with_name(REPORT)}, as {graph.path} has no claim of '{model}'")
    last = claims.headline(graph.claims or chosen, graph, evaluated)
    if last is None:
        return None
    return Claim(last, f"headline by default, as {graph.path} has no claim of '{model}'")


def headline(graph: Graph) -> str | None:
    """Read the headline that a recipe states. Raises ConfigError where its `report.yaml` cannot be read."""
    path = graph.path.with_name(REPORT)
    said = read_yaml(path).get("headline") if path.exists() else None
    return "{task}.{metric}".format(**said) if isinstance(said, dict) and {"task", "metric"} <= said.keys() else None


def graph_of(name: str) -> Graph:
    """Read the graph of a recipe. Raises ConfigError."""
    return recipe.read(Path("params", name, recipe.FILE))
