"""What the harness says of each document of a benchmark, as rows with a score for every metric under every filter.

One row of `samples/gsm8k.jsonl`:

    {"id": "0-3f…", "question": "Question: Ann has …", "answer": "…\\n#### 12", "response": "… #### 12",
     "scores": {"exact_match[strict-match]": 1.0, "exact_match[flexible-extract]": 1.0}}
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean

from tasks.evaluation.row_scores import row_scores
from tasks.stage.errors import DataError

PLAIN = "none"
"""Name of the filter that a task has where it names none; metrics are not named after it."""
Rows = list[dict[str, Any]]


def metric_name(metric: str, filter_name: str) -> str:
    """Name a metric under a filter: `exact_match[strict-match]`."""
    return metric if filter_name == PLAIN else f"{metric}[{filter_name}]"


def rows_of(task: Any, samples: Sequence[Mapping[str, Any]], left_out: set[tuple[str, int]]) -> Rows:
    """Return a task's questions in order, each with its answer, and its scores under every filter."""
    by_filter: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_filter.setdefault(sample["filter"], []).append(sample)
    first = next(iter(by_filter.values()))
    rows: Rows = []
    for sample in first:
        number = sample["doc_id"]
        missed = {"unanswered": True} if (task.task_name, number) in left_out else {}
        rows.append(
            {
                "id": f"{task.task_name}-{number}-{sample['doc_hash'][:12]}",
                "question": _question(task, sample["doc"]),
                "answer": str(sample["target"]),
                "response": _response(task, sample),
                "scores": {},
                **missed,
            }
        )
    for name, column, aggregate in _columns(task, by_filter):
        values = [sample[column] for sample in by_filter[name[1]]]
        scores = row_scores(values, aggregate, mean=aggregate is mean)
        for row, score in zip(rows, scores, strict=True):
            row["scores"][name[0]] = 0.0 if "unanswered" in row and aggregate is mean else score
    return rows


def _columns(task: Any, by_filter: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[tuple[str, str], str, Any]]:
    """List the metrics that every row of a task has: name and filter, column of the samples, aggregate.

    Raises:
        DataError: some rows have a metric and others lack it, so that it is no score of the task.
    """
    columns = []
    for filter_name, samples in by_filter.items():
        for metric in dict.fromkeys(metric for sample in samples for metric in sample["metrics"]):
            have = sum(metric in sample["metrics"] for sample in samples)
            if have != len(samples):
                raise DataError(
                    f"task {task.task_name}: {have} of {len(samples)} documents have the metric {metric}; a score of "
                    f"some of them cannot be compared; set `limit`, or leave the benchmark out"
                )
            columns.append(
                ((metric_name(metric, filter_name), filter_name), metric, task.aggregation().get(metric, mean))
            )
    return columns


def _question(task: Any, document: Mapping[str, Any]) -> str:
    """Return the question of a document: the prompt, or the choices where each is a prompt of its own."""
    text = task.doc_to_text(document)
    return "\n".join(task.doc_to_choice(document)) if isinstance(text, int) else str(text)


def _response(task: Any, sample: Mapping[str, Any]) -> str:
    """Return what a model said: its text, or the likeliest choice; empty where only a text's likelihood was asked."""
    if task.OUTPUT_TYPE == "generate_until":
        said = sample["resps"][0]
        return str(said[0] if isinstance(said, list) else said)
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(sample["doc"])
        scores = [likelihood for likelihood, _ in sample["filtered_resps"][: len(choices)]]
        return str(choices[int(np.argmax(scores))])
    return ""
