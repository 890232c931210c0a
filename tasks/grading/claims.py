"""Claims by default: for each model of a recipe that states no claim, the metric that its method is there for.

A method wants its kind of metric: fine-tuning more right answers, learning from preferences answers that are preferred,
learning to hear fewer wrong words. Of the metrics that a model's own evaluation gave, the first kind in the method's
order that is among them is its claim. What a metric is, its name and direction say:

    answer      higher is better   exact_match, correct, acc, acc_norm, f1, followed, …
    preference  higher is better   helpful, preferred, win_rate, courteous, accuracy of a task `pairs`, …
    error       lower is better    wer, cer
    other                          a metric by any other name, e.g. of the recipe's own grader
    likelihood  lower is better    nats_per_byte, bits_per_byte, perplexity, …

The choice looks at names and directions, at the order of the tasks in the recipe, and never at a score. A name stands
for all of lm-evaluation-harness's filters: `exact_match[strict-match]` is an `exact_match`. No paper is followed; the
kinds are those of this pipeline's graders and of the harness's metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tasks.stage.config import read_yaml
from tasks.stage.recipe import Graph


@dataclass(frozen=True)
class Kind:
    """Metrics that say the same of a model."""

    higher_is_better: bool | None
    """Direction of its metrics; None for either."""
    names: tuple[str, ...]
    """Patterns of their names, or of `task.metric` with a dot, the one to take first in front."""

    def place(self, task: str, metric: str) -> int | None:
        """Find the first of its names that a metric has, whatever the harness's filter; None where it has none."""
        stem = metric.partition("[")[0]
        of = (i for i, known in enumerate(self.names) if fnmatchcase(f"{task}.{stem}" if "." in known else stem, known))
        return next(of, None)


ANSWER = Kind(
    True, ("exact_match", "correct", "accuracy", "acc", "acc_norm", "*_acc", "pass@*", "mc2", "mc1", "followed", "f1")
)
PREFERENCE = Kind(
    True, ("helpful", "preferred", "chosen*", "*win_rate", "pairs*.accuracy", "preferences*.accuracy", "courteous")
)
ERROR = Kind(False, ("wer", "cer"))
OTHER = Kind(None, ("*",))
LIKELIHOOD = Kind(False, ("nats_per_*", "bits_per_byte", "*perplexity", "*loss"))
KINDS = (PREFERENCE, ANSWER, ERROR, LIKELIHOOD, OTHER)
"""Every kind; a metric is of the first that it fits."""
RIGHT_ANSWERS = (ANSWER, OTHER, ERROR, PREFERENCE, LIKELIHOOD)
"""Order of a method that is not named in `ORDERS`."""
PREFERRED_ANSWERS = (PREFERENCE, ANSWER, OTHER, ERROR, LIKELIHOOD)
HEARD_WORDS = (ERROR, ANSWER, OTHER, PREFERENCE, LIKELIHOOD)
ORDERS = {
    **dict.fromkeys(("dpo", "kto", "ppo", "rlaif", "online_dpo", "vlm_dpo", "reader_dpo"), PREFERRED_ANSWERS),
    **dict.fromkeys(("align_speech", "speech"), HEARD_WORDS),
}
"""Method, as the graph names it, to the kinds of metric that it is there for, in order."""

Tasks = Mapping[str, Mapping[str, Any]]
"""Task to its results, as `results.json` has them: `higher_is_better` is read."""


def kind(task: str, metric: str, higher_is_better: bool) -> Kind:
    """Say which kind a metric of a task is, by its name and direction."""
    fitting = (kind for kind in KINDS if kind.higher_is_better in (None, higher_is_better))
    return next(kind for kind in fitting if kind.place(task, metric) is not None)


def choose(order: Sequence[Kind], tasks: Tasks) -> str | None:
    """Choose a metric of a model.

    Within a kind, the first task counts, of its metrics the one whose name the kind has furthest in front, then a
    strict one, then the first by name.

    Args:
        order: kinds, the one to take first in front.
        tasks: results of the model, the task to take first in front.

    Returns:
        `task.metric`; None for a model that was asked nothing.
    """
    found = []
    for number, (task, result) in enumerate(tasks.items()):
        for metric, higher_is_better in result["higher_is_better"].items():
            of = kind(task, metric, higher_is_better)
            found.append((order.index(of), number, of.place(task, metric), "strict" not in metric, metric, task))
    if not found:
        return None
    *_, metric, task = min(found)
    return f"{task}.{metric}"


def in_order(graph: Graph, model: str, tasks: Tasks) -> dict[str, Mapping[str, Any]]:
    """Put the tasks that a model was asked in order: the recipe's own as its file has them, then its benchmarks.

    Args:
        graph: the recipe's graph, beside which `evaluate.yaml` or `evaluate_<data>.yaml` is.
        model: name of the model.
        tasks: its results.

    Raises:
        ConfigError: the file, or that of a task, cannot be read.
    """
    data = graph.asked_about.get(model)
    path = graph.path.with_name("evaluate.yaml" if data is None else f"evaluate_{data}.yaml")
    asked = read_yaml(path)["tasks"] if path.exists() else []
    own = [str(read_yaml(path.parent / choice["file"])["task"]) for choice in asked if "file" in choice]
    names = [*own, *(str(choice["benchmark"]) for choice in asked if "benchmark" in choice)]

    def place(task: str) -> tuple[int, str]:
        """A benchmark may be a group, whose tasks begin with its name."""
        places = [i for i, name in enumerate(names) if task == name or task.startswith(f"{name}_")]
        exact = [i for i, name in enumerate(names) if task == name]
        return min(exact or places or [len(names)]), task

    return {task: tasks[task] for task in sorted(tasks, key=place)}


def by_default(graph: Graph, results: Mapping[str, Tasks]) -> dict[str, str]:
    """Claim for each model of a graph that states no claim at all: one that states some has said what it claims.

    Args:
        graph: the recipe's graph.
        results: model to its results; models that were not evaluated are left out.

    Returns:
        Model to `task.metric`, in the order of the graph; empty when the graph states a claim.
    """
    if graph.claims:
        return {}
    chosen = {
        name: choose(ORDERS.get(model.method, RIGHT_ANSWERS), in_order(graph, name, results[name]))
        for name, model in graph.models.items()
        if name in results
    }
    return {name: metric for name, metric in chosen.items() if metric is not None}


def headline(claims: Mapping[str, str], graph: Graph, results: Mapping[str, Tasks]) -> str | None:
    """Choose the score that counts most: the claim of the last model that was evaluated.

    Args:
        claims: model to its claim, stated or by default.
        graph: the recipe's graph.
        results: model to its results.

    Returns:
        `task.metric`; without a claim the one that a first model would claim, and None where nothing was evaluated.
    """
    claimed = [claims[name] for name in graph.models if name in claims and name in results]
    if claimed:
        return claimed[-1]
    firsts = (choose(RIGHT_ANSWERS, in_order(graph, name, tasks)) for name, tasks in results.items())
    return next((metric for metric in firsts if metric is not None), None)
