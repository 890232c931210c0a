"""A benchmark is asked, and what the harness says of it becomes scores and intervals as our own tasks have them."""

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import lm_eval
import numpy as np
import torch
from ruamel.yaml import YAML

from tasks.evaluation import harness_files
from tasks.evaluation.benchmark_rows import Rows, metric_name, rows_of
from tasks.evaluation.benchmarks import Asked, named_scores
from tasks.evaluation.harness_files import portable
from tasks.evaluation.pictures import Resampling
from tasks.evaluation.row_scores import weighted
from tasks.grading.bootstrap import mean_interval
from tasks.ingestion import harness_index
from tasks.stage.artifact import write_jsonl
from tasks.stage.errors import DataError

TOLERANCE = 1e-9
"""Relative difference up to which two sums of the same scores, in another order, count as one."""


class Settings(Resampling, Protocol):
    """Settings of answers and intervals, as an evaluate.yaml has them."""

    @property
    def batch_size(self) -> int:
        """Rows answered at once."""


def ask(lm: Any, asked: Asked, seed: int) -> dict[str, Any]:
    """Ask a benchmark as `lm_eval` does, and return what `lm_eval.evaluate` returns, samples included.

    Args:
        lm: the model, which renders and tokenizes as the harness's own class does while it is asked.
        asked: what `benchmarks.prepare` made.
        seed: of answers that are drawn.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    os.environ["DISABLE_MULTIPROC"] = "1"  # the harness would fork a process a core for its standard errors
    if asked.frozen["unsafe_code"]:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    chat = asked.choice.apply_chat_template
    with lm.as_published():
        results: dict[str, Any] = lm_eval.evaluate(
            lm,
            asked.loaded,
            limit=asked.limit,
            bootstrap_iters=1000,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            log_samples=True,
            confirm_run_unsafe_code=asked.frozen["unsafe_code"],
        )
    return results


def ask_all(out: Path, lm: Any, published: Sequence[Asked], settings: Settings, model: str) -> dict[str, Any]:
    """Ask benchmarks one after the other, and write their rows and the harness's own files.

    Args:
        out: evaluation artifact.
        lm: the model.
        published: the benchmarks.
        settings: of answers and intervals.
        model: its name.

    Returns:
        Entries of `results.json`, by name.
    """
    home = harness_index.home()
    entries: dict[str, Any] = {}
    answered = []
    for asked in published:
        answered.append(ask(lm, asked, settings.seed))
        entries |= write(out, lm, asked, answered[-1], settings, home)
    seeds = {f"{what}_seed": settings.seed for what in ("random", "numpy", "torch", "fewshot")}
    harness_files.write(out, answered, {"model": model, "batch_size": settings.batch_size, **seeds}, home)
    return entries


def write(
    out: Path, lm: Any, asked: Asked, answered: Mapping[str, Any], settings: Resampling, home: Path
) -> dict[str, Any]:
    """Write `samples/<name>.jsonl` and `tasks/<name>.yaml` for each entry of a benchmark.

    Args:
        out: evaluation artifact.
        lm: the model that was asked.
        asked: the benchmark.
        answered: what `ask` returned.
        settings: of the intervals.
        home: folder of the harness's task files.

    Returns:
        Entries of `results.json`, by name.
    """
    entries = {}
    for name, group, tasks in named_scores(asked):
        samples = {task.task_name: answered["samples"][task.task_name] for task in tasks}
        by_task = {task.task_name: rows_of(task, samples[task.task_name], lm.unanswered) for task in tasks}
        if group is None:
            entry = _entry(tasks[0], by_task[name], settings)
        else:
            entry = _joined(group, by_task, tasks, answered, settings)
        rows = [{"id": row["id"], **_named(task, row, group)} for task, rows in by_task.items() for row in rows]
        entry["samples"] = len(rows)
        if left := sum("unanswered" in row for row in rows):
            entry["unanswered"] = left
        shown = {task.task_name: task.config.num_fewshot for task in tasks}
        entry["benchmark"] = {
            "lm_eval": asked.frozen["lm_eval"],
            "apply_chat_template": asked.choice.apply_chat_template,
            "num_fewshot": next(iter(shown.values())) if len(set(shown.values())) == 1 else shown,
        }
        entries[name] = entry
        write_jsonl(out / "samples" / f"{name}.jsonl", rows)
        (out / "tasks").mkdir(exist_ok=True)
        used = {task.task_name: portable(task.dump_config(), home) for task in tasks}
        with (out / "tasks" / f"{name}.yaml").open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump({"benchmark": entry["benchmark"], "tasks": used}, file)
    return entries


def _named(task: str, row: dict[str, Any], group: Any) -> dict[str, Any]:
    """Return what a row of a file says beside its id; in a group, which task it is of."""
    said = {key: value for key, value in row.items() if key not in ("id", "own")}
    return said if group is None else {"task": task, **said}


def _higher(task: Any, names: Sequence[str]) -> dict[str, bool]:
    """Return whether more of each metric is better; where the harness does not say, it is."""
    said = task.higher_is_better()
    return {name: said.get(name.partition("[")[0]) is not False for name in names}


def _intervals(scores: Mapping[str, Sequence[float]], settings: Resampling) -> dict[str, Any]:
    """Return the mean of each metric with its interval."""
    return {
        name: vars(
            mean_interval(rows, resamples=settings.resamples, confidence=settings.confidence, seed=settings.seed)
        )
        for name, rows in scores.items()
    }


def _scores(rows: Rows) -> dict[str, list[float]]:
    """Return metric to the scores of rows."""
    return {name: [row["scores"][name] for row in rows] for name in rows[0]["scores"]}


def _entry(task: Any, rows: Rows, settings: Resampling) -> dict[str, Any]:
    """Return the entry of a task alone."""
    scores = _scores(rows)
    return {
        "output_type": task.OUTPUT_TYPE,
        "metrics": _intervals(scores, settings),
        "higher_is_better": _higher(task, list(scores)),
        "groups": {},
    }


def _joined(
    group: Any, by_task: Mapping[str, Rows], tasks: Sequence[Any], answered: Mapping[str, Any], settings: Resampling
) -> dict[str, Any]:
    """Return the entry of a group, and make its rows' scores those whose mean is the group's.

    Raises:
        DataError: the harness joins scores by a function of its own.
    """
    said = answered["results"][group.name]
    joined: dict[str, list[list[float]]] = {}
    for wanted in group.aggregate_metric_list:
        for key in said:
            metric, _, filter_name = key.partition(",")
            if metric != wanted.metric or not filter_name:
                continue
            name = metric_name(metric, filter_name)
            if lacking := [task for task, rows in by_task.items() if name not in rows[0]["scores"]]:
                raise DataError(f"group {group.name}: {', '.join(lacking[:3])} have no {name}, by which it is joined")
            columns = [[row["scores"][name] for row in rows] for rows in by_task.values()]
            joined[name] = weighted(columns, wanted.weight_by_size)
            flat = [score for column in joined[name] for score in column]
            complete = not any("unanswered" in row for rows in by_task.values() for row in rows)
            if complete and abs(np.mean(flat) - said[key]) > TOLERANCE * max(1.0, abs(said[key])):
                raise DataError(f"group {group.name}: {name} is joined by a function that is no mean; ask its tasks")
    parts = {task: _intervals(_scores(rows), settings) for task, rows in by_task.items()}
    for number, rows in enumerate(by_task.values()):
        for place, row in enumerate(rows):
            row["scores"] = {name: columns[number][place] for name, columns in joined.items()}
    whole = {name: [score for column in columns for score in column] for name, columns in joined.items()}
    return {
        "output_type": tasks[0].OUTPUT_TYPE,
        "metrics": _intervals(whole, settings),
        "higher_is_better": _higher(tasks[0], list(whole)),
        "groups": {"task": parts},
    }
