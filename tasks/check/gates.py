"""A recipe's sections of the registry's policy, `mlflow/gates.yaml`: metrics, patterns, and the form that is served.

A section holds over `default`, key by key, as `flows/registry/policy.py` has it; the schema is looked at by what reads
it, `polm check` among them. Here are the names that point into the recipe.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tasks.check import metrics
from tasks.check.benchmarks import ANY
from tasks.check.files import Recipe
from tasks.export_onnx import Config as ExportConfig
from tasks.stage.config import nearest, read_yaml, suggest

POLICY = Path("mlflow/gates.yaml")
DEFAULT = "default"
"""Section that holds for every recipe, but for the keys that the recipe's own has."""


def check(under_check: Recipe) -> Iterator[str]:
    """Check the metric that must rise, of the recipe's own sections or of the default one."""
    for name, section, file in _sections(under_check):
        found, wrong = metrics.of_file(under_check, file)
        if found is None or wrong:
            continue
        own, shared = (_value(values, "quality", "metric") for values in section)
        named, whose = (own, name) if own is not None else (shared, DEFAULT)
        if isinstance(named, str) and not metrics.has(found, named):
            known = metrics.near(named, found)
            yield f"{POLICY}: {whose}.quality.metric is '{named}', which no task of {file} has{known}"


def notices(under_check: Recipe) -> Iterator[str]:
    """Name patterns that match no metric, forms that are not evaluated, and what cannot be promoted."""
    graph = under_check.graph
    for name, (own, shared), file in _sections(under_check):
        found, _ = metrics.of_file(under_check, file)
        for pattern in _mapping(own.get("regression")) if found is not None else ():
            if not _matches(str(pattern), found or set()):
                yield f"{POLICY}: {name}.regression has '{pattern}', which matches no metric of {file}"
        patterns = [str(pattern) for values in (own, shared) for pattern in _mapping(values.get("regression"))]
        for metric in sorted(found or ()) if own or shared else ():
            if not any(_matches(pattern, {metric}) for pattern in patterns):
                yield f"{POLICY}: no pattern of {name}.regression matches {metric}; add one with its bound, or null"
        if name != graph.recipe:
            continue
        if own and not graph.exported:
            yield (
                f"{graph.path}: {POLICY} has a section '{name}', and no model is exported; what is promoted is an "
                f"exported form, so name a model in 'export'"
            )
        form, whose = own.get("form", shared.get("form")), name if "form" in own else DEFAULT
        if graph.export and isinstance(form, str) and form not in graph.forms:
            export = under_check.of("export_onnx.yaml", ExportConfig)
            made = f"{under_check.folder}/export_onnx.yaml makes {'it' if export and form in export.forms else 'none'}"
            yield f"{POLICY}: {whose}.form is '{form}', which is not evaluated ({made}); add it to 'forms'"
    yield from _strangers(under_check)


def _strangers(under_check: Recipe) -> Iterator[str]:
    """Name the recipe's sections for data that no model is asked about, and that none holds for what is exported."""
    graph = under_check.graph
    if not POLICY.is_file():
        return
    sections, data = read_yaml(POLICY), set(graph.asked_about.values())
    for section in map(str, sections):
        whose, _, asked = section.partition("/")
        if whose == graph.recipe and asked and asked not in data:
            yield f"{POLICY}: {section}: no model of {graph.path} is asked about '{asked}'{suggest(asked, data)}"
    if graph.export and graph.recipe not in sections and DEFAULT not in sections:
        near = nearest(graph.recipe, sections)
        hint = f"; did you mean it by '{near}'?" if near else ""
        yield f"{POLICY}: no section '{graph.recipe}' and no '{DEFAULT}', so nothing can be promoted{hint}"


def _sections(under_check: Recipe) -> Iterator[tuple[str, tuple[Mapping[str, Any], Mapping[str, Any]], str]]:
    """Yield what holds for the recipe and for its data sets: name, own and default values, and the evaluation file.

    A data set without a section of its own is left out: its quality metric is a claim.
    """
    if not POLICY.is_file():
        return
    name, asked = under_check.graph.recipe, set(under_check.graph.asked_about.values())
    sections = read_yaml(POLICY)
    shared = _mapping(sections.get(DEFAULT))
    if under_check.graph.evaluate:
        yield name, (_mapping(sections.get(name)), shared), "evaluate.yaml"
    for section, values in sections.items():
        whose, _, data = str(section).partition("/")
        if whose == name and data in asked:
            yield str(section), (_mapping(values), shared), f"evaluate_{data}.yaml"


def _mapping(values: Any) -> Mapping[str, Any]:
    return values if isinstance(values, Mapping) else {}


def _value(values: Mapping[str, Any], section: str, key: str) -> Any:
    return _mapping(values.get(section)).get(key)


def _matches(pattern: str, found: set[str]) -> bool:
    """Whether a pattern matches a metric; of a benchmark, whose metrics are not known, its task's name is enough."""
    literal = pattern.replace("[", "[[]")
    task = pattern.partition(".")[0]
    names = {metric for metric in found if not metric.endswith(ANY)}
    benchmarks = {metric.removesuffix(ANY) for metric in found - names}
    return any(fnmatchcase(name, literal) for name in names) or any(fnmatchcase(name, task) for name in benchmarks)
