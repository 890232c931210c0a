"""A recipe's graph against its other files: entries of `methods:`, metrics of claims, forms of exports."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks import raft
from tasks.data import Config as DataConfig
from tasks.evaluate import Config as EvaluateConfig
from tasks.evaluate_rag import Config as EvaluateRagConfig
from tasks.evaluation.task_files import TaskChoice, load_task, rows_file
from tasks.export_onnx import Config as ExportConfig
from tasks.multimodal.sounds import AUDIO
from tasks.reporting.board import settings as report_settings
from tasks.stage import dag, recipe
from tasks.stage.config import load, read_yaml, suggest
from tasks.stage.data_folder import set_folder
from tasks.stage.errors import ConfigError, PolmError

TASKS = Path("eval")
"""Folder of a recipe's evaluation tasks, on which every evaluation depends."""
WITH_PASSAGES = Path("rag")
"""Folder of those for readers, on which no other evaluation depends."""
HEARING = ("align_speech", "speech")
"""Methods that learn of sounds."""


def check_methods(graph: recipe.Graph, blocks: Mapping[str, dag.Block]) -> Iterator[str]:
    """Check that each `settings` file has the `method` of each model, and every key that `dvc.yaml` hashes."""
    for model in graph.models.values():
        if "method" not in model.values:
            continue
        path = graph.path.parent / f"{model.values['settings']}.yaml"
        values, method = read_yaml(path), model.values["method"]
        methods = values.get("methods") or {}
        if method not in methods:
            hint = suggest(method, methods)
            yield f"{graph.path}: {model.method}.{model.name}.method is '{method}', which {path} has not{hint}"
        for key in blocks[model.method].params:
            if "." not in key and key not in values:
                yield f"{path}: missing key '{key}', which dvc.yaml counts among the settings of {model.method}"


def unused_methods(graph: recipe.Graph) -> Iterator[str]:
    """Name the entries of `methods:` that no model of the graph uses."""
    for settings, used in recipe.entries(graph).items():
        path = graph.path.parent / f"{settings}.yaml"
        for method in sorted(set(read_yaml(path).get("methods") or {}) - used):
            yield f"{path}: methods.{method}: no model of {graph.path} uses it"


def check_datasets(graph: recipe.Graph) -> Iterator[str]:
    """Check that the `dataset` of a model that sees or hears is a set of its data."""
    folder = graph.path.parent
    for name, model in graph.models.items():
        path, source = folder / f"{name}.yaml", model.values.get(recipe.DATA_KEY)
        if source is None or "dataset" not in read_yaml(path):
            continue
        dataset, data = read_yaml(path)["dataset"], folder / f"{source}.yaml"
        sets = raft.SETS if _with_passages(graph, source) else read_yaml(data)["sets"]
        if dataset not in sets:
            yield f"{path}: dataset is '{dataset}', and {data} has no such set{suggest(dataset, sets)}"


def _with_passages(graph: recipe.Graph, data: str | None) -> bool:
    """Whether a data set is one of questions with passages, whose sets are `tasks/raft.py`'s."""
    return data in graph.models and graph.models[str(data)].method == recipe.RAFT


def check_sounds(graph: recipe.Graph) -> Iterator[str]:
    """Check that rows with sounds are learnt by what hears them: other trainers would leave the sounds out."""
    folder = graph.path.parent
    for name, model in graph.models.items():
        path = folder / f"{model.values.get('settings', name)}.yaml"
        data = folder / f"{model.values.get(recipe.DATA_KEY, 'data')}.yaml"
        if model.method in (*HEARING, *recipe.FOLDERS) or not path.is_file():
            continue
        if _with_passages(graph, model.values.get(recipe.DATA_KEY)):
            continue
        dataset = read_yaml(path).get("dataset")
        entries = read_yaml(data)["sets"].get(dataset, {}).get("rows", [])
        if any(AUDIO in entry["map"] for entry in entries):
            yield (
                f"{path}: dataset '{dataset}' of {data} has sounds, and {model.method} takes none: it would learn "
                f"without them; name a set without `{AUDIO}`, or use {' and '.join(HEARING)}"
            )


def check_metrics(graph: recipe.Graph) -> Iterator[str]:
    """Check the evaluation tasks, and that claims, headline and frontier name metrics of them."""
    folder = graph.path.parent
    by_file: dict[str, set[str]] = {}
    data_of = {"evaluate.yaml": "data"}
    asked_about = [*graph.asked_about.values(), *(form["data"] for form in graph.evaluate_onnx_media.values())]
    data_of |= {f"evaluate_{data}.yaml": data for data in asked_about}
    for file, data in data_of.items():
        try:
            if _with_passages(graph, data):
                choices = load(folder / file, EvaluateRagConfig).tasks
                rows = {f"eval/{load(folder / f'{data}.yaml', raft.Config).task}.jsonl"}
                by_file[file] = _metrics(folder, file, f"{data}.yaml", WITH_PASSAGES, choices, rows)
            else:
                choices = load(folder / file, EvaluateConfig).tasks
                rows = set(_row_files(load(folder / f"{data}.yaml", DataConfig)))
                by_file[file] = _metrics(folder, file, f"{data}.yaml", TASKS, choices, rows)
        except PolmError as e:
            yield str(e)
            return
    for name, claim in graph.claims.items():
        asked = graph.asked_about.get(name)
        metrics = by_file["evaluate.yaml" if asked is None else f"evaluate_{asked}.yaml"]
        if claim not in metrics:
            yield f"{graph.path}: claim of '{name}' is '{claim}', which no evaluation task has{suggest(claim, metrics)}"
    metrics = set().union(*by_file.values())
    report = report_settings(folder / "report.yaml")
    for key, score in (("headline", report.headline), ("frontier", report.frontier)):
        if score is not None and (named := f"{score.task}.{score.metric}") not in metrics:
            yield f"{folder / 'report.yaml'}: {key} is '{named}', which no evaluation task has{suggest(named, metrics)}"


def _metrics(folder: Path, file: str, data: str, home: Path, choices: list[TaskChoice], rows: set[str]) -> set[str]:
    """List the metrics, `task.metric`, of one evaluation file, whose `rows` are made by the file `data`.

    The tasks have to lie in `home`, the folder that the evaluation depends on.

    Raises:
        ConfigError: a task that is wrong, that stands twice, or whose rows are in no set of `data`.
    """
    metrics: set[str] = set()
    files: dict[str, str] = {}
    for choice in choices:
        path = folder / choice.file
        if Path(choice.file).parent != home:
            raise ConfigError(f"{folder / file}: tasks names '{choice.file}'; only files in {folder / home} are hashed")
        task = load_task(path)
        if task["task"] in files:
            raise ConfigError(f"{path}: task '{task['task']}' is that of {files[task['task']]} too; rename one")
        if (wanted := rows_file(path, task)) not in rows:
            raise ConfigError(
                f"{path}: its rows are '{wanted}', which no set of {folder / data} makes{suggest(wanted, rows)}"
            )
        files[task["task"]] = choice.file
        metrics |= {f"{task['task']}.{metric['metric']}" for metric in task["metric_list"]}
    return metrics


def _row_files(data: DataConfig) -> Iterator[str]:
    """Name every file of rows that a data artifact holds."""
    for name in data.sets:
        if name.startswith("eval:"):
            yield f"eval/{name.removeprefix('eval:')}.jsonl"
        else:
            yield from (f"{set_folder(name)}/{split}.jsonl" for split in ("train", "validation"))


def check_forms(graph: recipe.Graph) -> Iterator[str]:
    """Check that the forms that are evaluated are forms of the export."""
    folder = graph.path.parent
    asked = [("forms", folder / "export_onnx.yaml", form) for form in graph.forms] if graph.export else []
    for name, said in graph.evaluate_onnx_media.items():
        path = folder / f"export_{graph.export_media[said['model']]}.yaml"
        asked.append((f"{recipe.FORMS_ASKED}.{name}", path, said["form"]))
    for key, path, form in asked:
        forms = load(path, ExportConfig).forms
        if form not in forms:
            yield f"{graph.path}: {key} names '{form}', which {path} does not make{suggest(form, forms)}"
