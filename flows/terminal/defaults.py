"""`polm show --defaults`: what holds for the active recipe that nobody wrote, as YAML to copy into its files."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from ruamel.yaml import YAML

from flows import workspace
from flows.registry import claim, policy
from tasks.grading import claims
from tasks.stage import recipe
from tasks.stage.config import read_yaml

WIDTH = 120
"""Columns of a line of YAML."""


def show(console: Console) -> None:
    """Print claims, settings of the report, and the policy: three parts, each with the file that it belongs to.

    Raises:
        ConfigError: a file of the recipe, or of the policies, cannot be read.
    """
    name = workspace.active_recipe()
    graph = claim.graph_of(name)
    report = graph.path.with_name(claim.REPORT)
    evaluated = claim.results([recipe.BASE, *graph.models])
    chosen = claims.by_default(graph, evaluated)
    lines = [
        *_claims(graph, chosen, evaluated),
        "",
        *_report(report, claims.headline(graph.claims or chosen, graph, evaluated)),
        "",
        *_gates(name),
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _claims(graph: recipe.Graph, chosen: Mapping[str, str], evaluated: Mapping[str, Any]) -> list[str]:
    if graph.claims:
        return [f"# {graph.path}: it states its claims, so none is by default"]
    lines = [f"# {graph.path}: a claim of one model states them all; without any, these hold"]
    if not chosen:
        return [*lines, "# none yet: no model of the graph was evaluated (`polm run`)"]
    methods: dict[str, dict[str, dict[str, str]]] = {}
    for model, metric in chosen.items():
        said = graph.models[model]
        methods.setdefault(said.method, {})[model] = {**said.values, "claim": metric}
    missing = sorted(graph.models.keys() - evaluated.keys())
    unevaluated = [f"# without a claim, as they were not evaluated: {', '.join(missing)}"] if missing else []
    return [*lines, *_yaml(methods), *unevaluated]


def _report(path: Path, headline: str | None) -> list[str]:
    """Show the settings of the report, with the scores in the place of null."""
    own = os.path.lexists(path)
    values = read_yaml(path if own else path.parent.parent / path.name)
    task, _, metric = (headline or "").partition(".")
    for key, other in (("headline", {"task": task, "metric": metric} if headline else None), ("frontier", None)):
        if values.get(key) is None:
            values[key] = other or values.get("headline")
    origin = "as it is" if own else f"not there: {path.parent.parent / path.name} holds"
    return [f"# {path}: {origin}", *_yaml(values)]


def _gates(name: str) -> list[str]:
    sections = read_yaml(policy.POLICY)
    own = "not there: `default` holds" if policy.is_default(name) else "over `default`"
    merged = policy.overridden(sections.get(policy.DEFAULT, {}), sections.get(name, {}))
    null = ["# quality.metric null: the claim of the model that is promoted"]
    said = null if merged.get("quality", {}).get("metric") is None else []
    return [f"# {policy.POLICY}, section '{name}': {own}", *said, *_yaml({name: merged})]


def _yaml(values: Mapping[str, Any]) -> list[str]:
    """Write YAML, mappings of plain values on one line."""
    writer, text = YAML(), io.StringIO()
    writer.default_flow_style = None
    writer.width = WIDTH
    writer.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    writer.dump(dict(values), text)
    return text.getvalue().rstrip().splitlines()
