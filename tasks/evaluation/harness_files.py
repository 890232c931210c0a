"""The files that lm-evaluation-harness itself writes, without what differs from run to run, for other tools to read.

`results_polm.json` is its `results_<time>.json`, and `samples_<task>_polm.jsonl` its `samples_<task>_<time>.jsonl`.
Time, host, versions of the machine and paths are left out: the same evaluation has the same bytes everywhere.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.stage.artifact import write_json, write_jsonl

FOLDER = "lm_eval"
"""Folder of these files in an evaluation artifact."""
BY_NAME = (
    "results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
)  # fmt: skip
"""Sections of the harness's results that have an entry for each task."""


def write(folder: Path, answered: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], home: Path) -> None:
    """Write what the harness said of all benchmarks.

    Args:
        folder: evaluation artifact.
        answered: what `lm_eval.evaluate` returned, of each benchmark.
        settings: goes to `config`: seeds, batch size, the model's name.
        home: folder of the harness's task files, which its configurations name.
    """
    (folder / FOLDER).mkdir()
    merged: dict[str, Any] = {section: {} for section in BY_NAME}
    for results in answered:
        for section in BY_NAME:
            merged[section].update(results.get(section, {}))
        for task, samples in results["samples"].items():
            rows = [portable(_sample(sample), home) for sample in samples]
            write_jsonl(folder / FOLDER / f"samples_{task}_polm.jsonl", rows)
    merged = {section: entries for section, entries in merged.items() if entries}
    write_json(folder / FOLDER / "results_polm.json", portable({**merged, "config": dict(settings)}, home))


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Shape a sample as the harness's own writer does, so that `datasets` can load the file."""
    arguments = {
        f"gen_args_{i}": {f"arg_{j}": argument for j, argument in enumerate(request)}
        for i, request in enumerate(sample["arguments"])
    }
    texts = {key: _texts(sample[key]) for key in ("resps", "filtered_resps")}
    return {**sample, "arguments": arguments, **texts, "target": str(sample["target"])}


def _texts(value: Any) -> Any:
    """Write every value inside lists as text."""
    return [_texts(inner) for inner in value] if isinstance(value, (list, tuple)) else str(value)


def portable(value: Any, home: Path) -> Any:
    """Return a value as JSON has it: functions as their source, numbers of NumPy as numbers, no path of the machine."""
    if isinstance(value, Mapping):
        return {str(key): portable(inner, home) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        ordered = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [portable(inner, home) for inner in ordered]
    if isinstance(value, (str, bytes)):
        text = value if isinstance(value, str) else value.decode(errors="replace")
        return text.replace(f"{home}/", "")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if hasattr(value, "item"):
        return value.item() if getattr(value, "size", 1) == 1 else value.tolist()
    if callable(value):
        return _source(value)
    return json.loads(json.dumps(value, default=lambda other: type(other).__name__))


def _source(function: Any) -> str:
    """Return a function's source, or its name where it has none."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return str(getattr(function, "__qualname__", type(function).__name__))
