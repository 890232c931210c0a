"""The metrics that a recipe's evaluations give, by name, before any of them runs."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tasks import raft
from tasks.check import benchmarks
from tasks.check.benchmarks import ANY
from tasks.check.files import Recipe
from tasks.data import Config as DataConfig
from tasks.evaluate import Config as EvaluateConfig
from tasks.evaluate_rag import Config as EvaluateRagConfig
from tasks.evaluation.benchmarks import BenchmarkChoice
from tasks.evaluation.task_files import load_task, rows_file
from tasks.stage import recipe
from tasks.stage.config import StageConfig, suggest
from tasks.stage.data_folder import set_folder
from tasks.stage.errors import ConfigError, PolmError

TASKS = Path("eval")
"""Folder of a recipe's evaluation tasks, on which every evaluation depends."""
WITH_PASSAGES = Path("rag")
"""Folder of those for readers, on which no other evaluation depends."""
Metrics = set[str]
"""`task.metric` each, or `task.*`."""


def evaluations(graph: recipe.Graph) -> dict[str, str]:
    """Map each evaluation file of a recipe to the data set that it asks about."""
    asked = [*graph.asked_about.values(), *(form["data"] for form in graph.forms_asked.values())]
    return {"evaluate.yaml": "data"} | {f"evaluate_{data}.yaml": data for data in asked}


def has(known: Collection[str], metric: str) -> bool:
    """Whether a metric is among those known, or of a task any of whose metrics is taken."""
    return metric in known or any(metric.startswith(name.removesuffix("*")) for name in known if name.endswith(ANY))


def near(metric: str, known: Collection[str]) -> str:
    """Suggest a metric in place of one that is not known, of the same task where there is such a task."""
    same = [name for name in known if name.partition(".")[0] == metric.partition(".")[0]]
    return suggest(metric, same or known)


def of_file(under_check: Recipe, file: str) -> tuple[Metrics | None, list[str]]:
    """List the metrics of one evaluation file.

    Returns:
        The metrics, None where the file or that of its data is wrong by itself or one of its tasks is; and what is
        wrong with its tasks.
    """
    folder, data = under_check.folder, evaluations(under_check.graph)[file]
    model = under_check.graph.models.get(data)
    if model is not None and model.method == recipe.RAFT:
        asked: StageConfig | None = under_check.of(file, EvaluateRagConfig)
        passages = under_check.of(f"{data}.yaml", raft.Config)
        home, rows, config = WITH_PASSAGES, None if passages is None else {f"eval/{passages.task}.jsonl"}, None
    else:
        asked, config = under_check.of(file, EvaluateConfig), under_check.of(f"{data}.yaml", DataConfig)
        home, rows = TASKS, None if config is None else set(row_files(config))
    if asked is None:
        return None, []
    found: Metrics = set()
    wrong: list[str] = []
    files: dict[str, str] = {}
    certain = True
    for number, choice in enumerate(asked.tasks):  # type: ignore[attr-defined]  # of two stages' configurations
        place = f"{folder / file}: tasks.{number}"
        if isinstance(choice, BenchmarkChoice):
            if config is None:
                certain = False
                continue
            metrics, faults = benchmarks.asked(choice, place, config, folder / f"{data}.yaml")
            certain = certain and bool(metrics)
            for name in sorted({metric.partition(".")[0] for metric in metrics} & set(files)):
                faults.append(f"{place}: the task '{name}' is that of {files[name]} too; drop one, or rename your own")
            files |= {metric.partition(".")[0]: f"the benchmark {choice.benchmark}" for metric in metrics}
            found |= metrics
            wrong += faults
            continue
        try:
            found |= _of_task(folder / file, choice.file, folder / f"{data}.yaml", home, rows, files)
        except PolmError as e:
            wrong.append(str(e))
    return (found if certain and not wrong else None), wrong


def _of_task(
    asking: Path, file: str, data: Path, home: Path, rows: Collection[str] | None, files: dict[str, str]
) -> Metrics:
    """List the metrics of one task.

    Args:
        asking: the evaluation file that names it.
        file: the task's, relative to the recipe's folder.
        data: the file of the data that it asks about.
        home: folder that the task has to lie in, on which the evaluation depends.
        rows: files of rows that are made; None where that is not known.
        files: names of tasks so far, to their files; this one is added.

    Raises:
        ConfigError: a task that is wrong, that stands twice, or whose rows are in no set of `data`.
    """
    path = asking.parent / file
    if Path(file).parent != home:
        raise ConfigError(f"{asking}: tasks names '{file}'; only files in {asking.parent / home} are hashed")
    task = loaded(path)
    if task["task"] in files:
        raise ConfigError(f"{path}: task '{task['task']}' is that of {files[task['task']]} too; rename one")
    files[task["task"]] = file
    wanted = rows_file(path, task)
    if rows is not None and wanted not in rows:
        raise ConfigError(f"{path}: its rows are '{wanted}', which no set of {data} makes{suggest(wanted, rows)}")
    return {f"{task['task']}.{metric['metric']}" for metric in task["metric_list"]}


def loaded(path: Path) -> dict[str, Any]:
    """Load a task's file, and try its grader on a made-up response.

    Raises:
        ConfigError: the file is wrong, or its grader cannot read what a model of this `output_type` gives.
    """
    try:
        task: dict[str, Any] = load_task(path)
    except PolmError:
        raise
    except Exception as e:  # whatever a grader does with a response of another kind
        raise ConfigError(
            f"{path}: process_results cannot grade what `output_type` gives ({type(e).__name__}: {e}); take a grader "
            f"of that kind, or generate_until for answers in words"
        ) from e
    return task


def row_files(data: DataConfig) -> Iterator[str]:
    """Name every file of rows that a data artifact holds."""
    for name in data.sets:
        if name.startswith("eval:"):
            yield f"eval/{name.removeprefix('eval:')}.jsonl"
        else:
            yield from (f"{set_folder(name)}/{split}.jsonl" for split in ("train", "validation"))
