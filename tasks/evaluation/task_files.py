"""Task files of lm-evaluation-harness in a recipe: read, held against their graders, and against the rows they name."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.grading import answers, speech
from tasks.models.checks import brief
from tasks.multimodal.controls import HEARD, REVERSED, SHOWN, Control
from tasks.multimodal.images import has_images
from tasks.multimodal.sounds import has_audio
from tasks.stage import own
from tasks.stage.artifact import read_jsonl
from tasks.stage.config import Strict, read_yaml, suggest
from tasks.stage.data_folder import shards
from tasks.stage.errors import ArtifactError, ConfigError, PolmError
from tasks.training.sharded import ShardedRows

OWN = "graders"
"""Module of a recipe's own graders, `graders.py` in its folder."""


class TaskChoice(Strict):
    """One evaluation task."""

    file: str
    """lm-eval task YAML, relative to the recipe's folder."""
    limit: int | None
    """Rows to ask, from the first; null asks all."""
    group_by: list[str]
    """Columns of the rows whose values are scored separately too."""
    controls: list[Control] = Field(default=[])
    """Pictures with which every question is asked again: `noise`, `black`, `other` (of a row of the same `kind`, if
    rows have that column, and as many pictures, whose `answer` differs; where there is none, the row's own); of clips
    also `shuffled`, `repeated` and `reversed`, for which rows need a column `reversed`: the answer then right. Sounds
    have `noise`, `silence` and `other`."""


def load_task(path: Path) -> dict[str, Any]:
    """Read a task file and try its grader on a made-up row; needs neither data nor lm-eval.

    Returns:
        The task, with `process_results` resolved to the function.

    Raises:
        ConfigError: a key is missing, the grader is unknown, or its metrics are not those the task lists.
    """
    task = read_yaml(path)
    for key in ("task", "output_type", "doc_to_text", "doc_to_target", "process_results", "metric_list"):
        if key not in task:
            raise ConfigError(f"{path}: missing key '{key}'")
    own_graders = own.functions(path.absolute().parents[1], OWN)
    shipped = {**vars(answers), **vars(speech)}
    graders = {n: grader for n, grader in {**shipped, **own_graders}.items() if _is_grader(grader)}
    name = str(task["process_results"])
    if name not in graders:
        raise ConfigError(f"{path}: unknown process_results '{name}'{suggest(name, graders)}")
    task["process_results"] = graders[name]
    if name not in own_graders:  # a grader of the recipe's own may need columns that only its rows have
        row = {"answer": "1", "messages": [{"role": "assistant", "content": "1"}]}
        _check_metrics(_metrics(task, row), task, path)
    return task


def _metrics(task: dict[str, Any], row: dict[str, Any]) -> set[str]:
    """Metrics that the task's grader gives for a made-up response to a row."""
    return set(task["process_results"](row, _trial(task)))


def _check_metrics(given: set[str], task: dict[str, Any], path: Path) -> None:
    """Raise ConfigError when a grader gives other metrics than the task lists."""
    listed = {metric["metric"] for metric in task["metric_list"]}
    if given != listed:
        name = task["process_results"].__name__
        raise ConfigError(f"{path}: metric_list has {sorted(listed)}, but {name} gives {sorted(given)}")


def _is_grader(value: Any) -> bool:
    return inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["doc", "results"]


def rows_file(path: Path, task: dict[str, Any]) -> str:
    """Name the file of a task's rows in the data artifact. Raises ConfigError where the task names none."""
    try:
        return str(task["dataset_kwargs"]["data_files"]["test"])
    except (KeyError, TypeError):
        raise ConfigError(f"{path}: missing key 'dataset_kwargs.data_files.test', e.g. eval/sums.jsonl") from None


def read_rows(path: Path, task: dict[str, Any], choice: TaskChoice, data: Path) -> list[dict[str, Any]]:
    """Rows that the task at `path` names by `dataset_kwargs.data_files.test`, relative to the data artifact.

    Raises:
        ConfigError: the task names no file.
        ArtifactError: the data artifact has no such rows, or one that lacks a column or that the grader cannot grade.
    """
    file = data / rows_file(path, task)
    files = shards(file)
    if not files and not file.is_file():
        known = sorted(str(p.relative_to(data)) for p in data.rglob("*.jsonl"))
        raise ArtifactError(f"{path}: {file} does not exist{suggest(str(file.relative_to(data)), known)}")
    rows = ShardedRows(files)[: choice.limit] if files else read_jsonl(file)[: choice.limit]
    if not rows:
        raise ArtifactError(f"{file}: no rows to evaluate on; take more rows in the recipe's data.yaml")
    for number, row in enumerate(rows, 1):
        for column in ("id", *choice.group_by):
            if column not in row:
                raise ArtifactError(f"{file}:{number}: no column '{column}'{suggest(column, row)}")
        _check_metrics(_try_grader(task, row, f"{file}:{number}"), task, path)
    return rows


def _try_grader(task: dict[str, Any], row: dict[str, Any], place: str) -> set[str]:
    """Grade a made-up response to a row: what a grader cannot read would else show once the model has answered."""
    grader = task["process_results"]
    try:
        return _metrics(task, row)
    except KeyError as e:
        raise ArtifactError(f"{place}: no key {e}, which the grader {grader.__name__} reads") from None
    except (PolmError, ValueError, ArithmeticError, TypeError, AttributeError, IndexError) as e:
        held = {key: row[key] for key in ("answer", "messages", "instructions") if key in row}
        raise ArtifactError(
            f"{place}: the grader {grader.__name__} cannot grade this row ({brief(e)}), which has {str(held)[:200]}; "
            f"correct the row, or name another grader as `process_results` of the task"
        ) from None


def _trial(task: dict[str, Any]) -> list[Any]:
    return ["1"] if task["output_type"] == "generate_until" else [(-1.0, False)]


def check_media(choices: Sequence[TaskChoice], tasks: Sequence[Any], lm: Any, model: Path) -> None:
    """Raise ConfigError where a model does not take what rows show, or controls have nothing to replace.

    Args:
        choices: the tasks of the recipe.
        tasks: of each its path, its content and its rows.
        lm: the model, as the harness is given it.
        model: its folder, for messages.
    """
    takes = getattr(lm, "media", None)
    for choice, (path, task, rows) in zip(choices, tasks, strict=True):
        seen, heard = has_images(rows), has_audio(rows)
        if seen and takes != "pictures":
            raise ConfigError(f"{path}: its rows show pictures, and {model} takes none; ask it in words, or take a vlm")
        if heard and takes != "sounds":
            raise ConfigError(
                f"{path}: its rows have sounds, and {model} takes none; ask it in words, or take a speech"
            )
        if choice.controls and not (seen or heard):
            raise ConfigError(f"{path}: its rows show no pictures: there is nothing to replace, so drop `controls`")
        for control in choice.controls:
            if control not in (HEARD if heard else SHOWN):
                raise ConfigError(
                    f"{path}: control '{control}' is none of {'sounds' if heard else 'pictures'}; "
                    f"take of {', '.join(HEARD if heard else SHOWN)}"
                )
        if REVERSED in choice.controls and any(REVERSED not in row for row in rows):
            raise ConfigError(
                f"{path}: the control '{REVERSED}' needs a column of that name in every row, the answer where time "
                f"runs backwards; map it in the data"
            )
        if "other" in choice.controls and not all("answer" in row for row in rows):
            raise ConfigError(f"{path}: control `other` needs rows with an `answer`, of which the other row's differs")
        if (seen or heard) and task.get("num_fewshot"):
            what = "pictures" if seen else "sounds"
            raise ConfigError(f"{path}: num_fewshot shows no {what} of its examples; set it to 0")
