"""A recipe's graph against its other files: entries of `methods:`, metrics of claims, forms of exports."""

from collections.abc import Collection, Iterator, Mapping

from tasks import raft
from tasks.check import metrics
from tasks.check.files import Recipe
from tasks.data import Config as DataConfig
from tasks.export_onnx import Config as ExportConfig
from tasks.multimodal.sounds import AUDIO
from tasks.reporting.board import Config as ReportConfig
from tasks.stage import blocks, dag, recipe
from tasks.stage.config import read_yaml, suggest
from tasks.stage.errors import PolmError
from tasks.stage.trainer_config import TrlConfig

HEARING = ("align_speech", "speech")
"""Methods that learn of sounds."""


def check_methods(graph: recipe.Graph, stages: Mapping[str, blocks.Block]) -> Iterator[str]:
    """Check that each `settings` file has the `method` of each model, and every key that `dvc.yaml` hashes."""
    for model in graph.models.values():
        if "method" not in model.values:
            continue
        path = graph.path.parent / f"{model.values['settings']}.yaml"
        try:
            values, method = read_yaml(path), model.values["method"]
        except PolmError:  # said of the file by itself
            continue
        methods = values.get("methods")
        if methods is None:  # said of the file by itself, as is a key that is missing beside it
            continue
        if method not in methods:
            hint = suggest(method, methods)
            yield f"{graph.path}: {model.method}.{model.name}.method is '{method}', which {path} has not{hint}"
        for key in stages[model.method].params:
            if "." not in key and key not in values:
                yield f"{path}: missing key '{key}', which dvc.yaml counts among the settings of {model.method}"


def unused_methods(graph: recipe.Graph) -> Iterator[str]:
    """Name the entries of `methods:` that no model of the graph uses."""
    for settings, used in recipe.entries(graph).items():
        path = graph.path.parent / f"{settings}.yaml"
        for method in sorted(set(read_yaml(path).get("methods") or {}) - used):
            yield f"{path}: methods.{method}: no model of {graph.path} uses it"


def never_evaluated(graph: recipe.Graph) -> Iterator[str]:
    """Name the models that answer, and neither are asked anything nor are what another is made from."""
    needed = {parent for model in graph.models.values() for parent in model.parents.values()}
    asked = {*graph.evaluate, *graph.evaluate_media, *(said["model"] for said in graph.evaluate_rag.values())}
    others = {*recipe.FOLDERS, recipe.RETRIEVER, *dag.ROLES}
    for name, model in graph.models.items():
        if model.method not in others and name not in needed | asked:
            yield f"{graph.path}: {model.method}.{name} is trained and never evaluated; add it to 'evaluate'"


def check_datasets(under_check: Recipe) -> Iterator[str]:
    """Check that the `dataset` of a model that sees or hears is a set of its data."""
    graph, folder = under_check.graph, under_check.folder
    for name, model in graph.models.items():
        config, source = under_check.configs.get(f"{name}.yaml"), model.values.get(recipe.DATA_KEY)
        if source is None or config is None or "dataset" not in type(config).model_fields:
            continue
        sets = _sets(under_check, source)
        dataset = config.dataset  # type: ignore[attr-defined]  # of several stages' configurations
        if sets is not None and dataset not in sets:
            data = folder / f"{source}.yaml"
            yield f"{folder / name}.yaml: dataset is '{dataset}', and {data} has no such set{suggest(dataset, sets)}"


def _sets(under_check: Recipe, data: str) -> Collection[str] | None:
    """List the sets of a data set; None where its file is wrong by itself."""
    if _with_passages(under_check.graph, data):
        return raft.SETS
    config = under_check.of(f"{data}.yaml", DataConfig)
    return None if config is None else config.sets


def _with_passages(graph: recipe.Graph, data: str | None) -> bool:
    """Whether a data set is one of questions with passages, whose sets are `tasks/raft.py`'s."""
    return data in graph.models and graph.models[str(data)].method == recipe.RAFT


def check_sounds(under_check: Recipe) -> Iterator[str]:
    """Check that rows with sounds are learnt by what hears them: other trainers would leave the sounds out."""
    graph, folder = under_check.graph, under_check.folder
    for name, model in graph.models.items():
        file = f"{model.values.get('settings', name)}.yaml"
        source = model.values.get(recipe.DATA_KEY, "data")
        config, data = under_check.configs.get(file), under_check.of(f"{source}.yaml", DataConfig)
        if model.method in (*HEARING, *recipe.FOLDERS) or data is None or not isinstance(config, TrlConfig):
            continue
        chosen = data.sets.get(config.dataset)
        if chosen is not None and any(AUDIO in entry.map for entry in chosen.rows):
            yield (
                f"{folder / file}: dataset '{config.dataset}' of {folder / source}.yaml has sounds, and {model.method} "
                f"takes none: it would learn without them; name a set without `{AUDIO}`, or use {' and '.join(HEARING)}"
            )


def check_metrics(under_check: Recipe) -> Iterator[str]:
    """Check the evaluation tasks, and that claims, headline and frontier name metrics of them."""
    graph, folder = under_check.graph, under_check.folder
    by_file: dict[str, metrics.Metrics] = {}
    for file in metrics.evaluations(graph):
        found, wrong = metrics.of_file(under_check, file)
        yield from wrong
        if found is not None:
            by_file[file] = found
    for name, claim in graph.claims.items():
        asked = graph.asked_about.get(name)
        known = by_file.get("evaluate.yaml" if asked is None else f"evaluate_{asked}.yaml")
        if known is not None and not metrics.has(known, claim):
            hint = metrics.near(claim, known)
            yield f"{graph.path}: claim of '{name}' is '{claim}', which no evaluation task has{hint}"
    every = set().union(*by_file.values())
    path = folder / "report.yaml"
    report = under_check.of("report.yaml", ReportConfig)
    if report is None or len(by_file) < len(metrics.evaluations(graph)):
        return
    for key, score in (("headline", report.headline), ("frontier", report.frontier)):
        if score is not None and not metrics.has(every, named := f"{score.task}.{score.metric}"):
            yield f"{path}: {key} is '{named}', which no evaluation task has{metrics.near(named, every)}"


def check_forms(under_check: Recipe) -> Iterator[str]:
    """Check that the forms that are evaluated are forms of the export."""
    graph, folder = under_check.graph, under_check.folder
    asked = [("forms", folder / "export_onnx.yaml", form) for form in graph.forms] if graph.export else []
    for name, said in graph.forms_asked.items():
        path = folder / f"export_{graph.export_media[said['model']]}.yaml"
        asked.append((f"forms of {said['model']}: {name}", path, said["form"]))
    for key, path, form in asked:
        export = under_check.of(path.name, ExportConfig)
        if export is not None and form not in export.forms:
            yield f"{graph.path}: {key} names '{form}', which {path} does not make{suggest(form, export.forms)}"
