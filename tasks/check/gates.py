"""A recipe's section of the registry's policy, `mlflow/gates.yaml`: metrics, patterns, and the form that is served.

The policy's own schema is looked at by `polm doctor` and `polm promote`; here are the names that point into the recipe.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tasks.check import metrics
from tasks.check.files import Recipe
from tasks.export_onnx import Config as ExportConfig
from tasks.stage.config import read_yaml, suggest

POLICY = Path("mlflow/gates.yaml")


def check(under_check: Recipe) -> Iterator[str]:
    """Check the names in the recipe's own sections; a recipe need not have any."""
    for section, values, file in _sections(under_check):
        found, wrong = metrics.of_file(under_check, file)
        if found is None or wrong:
            continue
        quality = values.get("quality")
        named = quality.get("metric") if isinstance(quality, Mapping) else None
        if isinstance(named, str) and not metrics.has(found, named):
            known = suggest(named, found)
            yield f"{POLICY}: {section}.quality.metric is '{named}', which no task of {file} has{known}"


def notices(under_check: Recipe) -> Iterator[str]:
    """Name patterns that match no metric, forms that are not evaluated, and what is promoted and never exported."""
    graph = under_check.graph
    for section, values, file in _sections(under_check):
        found, _ = metrics.of_file(under_check, file)
        patterns = values.get("regression")
        for pattern in patterns if isinstance(patterns, Mapping) and found is not None else ():
            if not _matches(str(pattern), found or set()):
                yield f"{POLICY}: {section}.regression has '{pattern}', which matches no metric of {file}"
        if section != graph.recipe:
            continue
        if not graph.exported:
            yield (
                f"{graph.path}: {POLICY} has a section '{section}', and no model is exported; what is promoted is an "
                f"exported form, so name a model in 'export'"
            )
        elif graph.export and isinstance(form := values.get("form"), str) and form not in graph.forms:
            export = under_check.of("export_onnx.yaml", ExportConfig)
            made = f"{under_check.folder}/export_onnx.yaml makes {'it' if export and form in export.forms else 'none'}"
            yield f"{POLICY}: {section}.form is '{form}', which is not evaluated ({made}); add it to 'forms'"


def _sections(under_check: Recipe) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield the recipe's sections: name, values, and the evaluation file whose metrics it names."""
    if not POLICY.is_file():
        return
    name, asked = under_check.graph.recipe, set(under_check.graph.asked_about.values())
    for section, values in read_yaml(POLICY).items():
        whose, _, data = str(section).partition("/")
        if whose == name and isinstance(values, dict) and (not data or data in asked):
            yield str(section), values, f"evaluate_{data}.yaml" if data else "evaluate.yaml"


def _matches(pattern: str, found: set[str]) -> bool:
    """Whether a pattern matches a metric; of a benchmark, whose metrics are not known, its task's name is enough."""
    literal = pattern.replace("[", "[[]")
    task = pattern.partition(".")[0]
    names = {metric for metric in found if not metric.endswith(metrics.ANY)}
    benchmarks = {metric.removesuffix(metrics.ANY) for metric in found - names}
    return any(fnmatchcase(name, literal) for name in names) or any(fnmatchcase(name, task) for name in benchmarks)
