"""Tasks of lm-evaluation-harness built on rows that are recorded once and replayed for ever after.

What is kept is what `datasets` gives a task, before the task's own code shapes it: with the same rows in the same
splits, the harness builds the same prompts, draws the same few-shot examples and grades alike. A folder of it:

    benchmark.json                                  tasks, few-shot examples, data sets with revision and licence
    openai+gsm8k+main/test.jsonl, …/train.jsonl     one row a line, columns as `datasets` has them
    questions.jsonl                                 what may be asked, as training rows must not have it
"""

import contextlib
import hashlib
import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.ingestion.harness_index import Known
from tasks.stage.artifact import read_json, read_jsonl, write_jsonl
from tasks.stage.errors import ArtifactError, DataError

FOLDER = "benchmarks"
"""Folder of frozen benchmarks in a data artifact, one folder each."""
DESCRIPTION = "benchmark.json"
"""What a frozen benchmark is."""
QUESTIONS = "questions.jsonl"
"""The documents that may be asked: `{"id": "gsm8k:0", "texts": [prompt, longest text that the prompt shows]}`."""
LONGEST = 120
"""Characters of a data set's name that name its folder."""

Splits = Mapping[str, Any]
"""Split to `datasets.Dataset`."""
Source = Callable[[Any], Splits]
"""Gives the splits of a task, which is told apart by its `config`."""


def key(task: Any) -> str:
    """Name the data set that a task reads: its id and configuration, or the task itself where that writes the rows."""
    config = task.config
    words = [config.dataset_path, config.dataset_name, *_options(config.dataset_kwargs)]
    if callable(config.custom_dataset):
        words = ["task", config.task]
    name = "+".join(str(word) for word in words if word)
    plain = re.sub(r"[^\w.+-]", "+", name)
    if len(plain) <= LONGEST:
        return plain
    return f"{plain[:LONGEST]}+{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _options(options: Mapping[str, Any] | None) -> list[str]:
    """Write the options of `load_dataset` that choose rows."""
    chosen = {name: value for name, value in (options or {}).items() if name != "trust_remote_code"}
    return [f"{name}={chosen[name]}" for name in sorted(chosen)]


def build(known: Known, source: Source, seed: int) -> dict[str, Any]:
    """Build a task, or all tasks of a group or tag.

    Args:
        known: what `harness_index.find` found.
        source: is asked for the rows of each task, in place of a download.
        seed: of Python's and NumPy's generators before each task is built, and of the few-shot examples: some tasks
            shuffle choices.

    Returns:
        What `lm_eval.evaluate` takes: `tasks`, `groups` and `group_map`.

    Raises:
        DataError: a Python package that a task needs is not there, or a task takes its rows from somewhere else.
    """
    import numpy as np
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what its own task files leave out
    manager = TaskManager(include_defaults=False)
    manager._index.update(known.index)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        with _rows_of(source):
            loaded: dict[str, Any] = dict(manager.load([known.name]))
    except ImportError as e:
        package = e.name or str(e)
        raise DataError(
            f"benchmark '{known.name}' needs the Python package '{package}', which is not installed; "
            f"`pip install {package.partition('.')[0]}`, or leave the benchmark out"
        ) from e
    for name, task in loaded["tasks"].items():
        if not hasattr(task, "polm_rows"):
            raise DataError(
                f"benchmark '{known.name}': the task {name} reads its rows by code of its own, which cannot be frozen; "
                f"leave it out"
            )
        task.set_fewshot_seed(seed)
    return loaded


@contextlib.contextmanager
def _rows_of(source: Source) -> Iterator[None]:
    """Let every task that is built inside the block have the rows of `source`: the harness has no hook for it."""
    from lm_eval.api.task import ConfigurableTask

    original = ConfigurableTask.download

    def download(self: Any, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        self.dataset = self.polm_rows = source(self)

    ConfigurableTask.download = download
    try:
        yield
    finally:
        ConfigurableTask.download = original


def set_examples(task: Any, asked: int | None) -> int:
    """Set the few-shot examples of a task by the harness's own rule, and return how many it shows.

    Args:
        task: of the harness.
        asked: examples for each question; None: the task's own number. A task that sets it to 0 keeps that.
    """
    own = task.config.num_fewshot
    shown = own if asked is None or own == 0 else asked
    task.set_config(key="num_fewshot", value=shown or 0)
    return int(shown or 0)


def write_split(path: Path, rows: Any) -> str:
    """Write a split, and return its `features` as JSON text, in which the order of columns and keys is kept.

    Raises:
        DataError: a column holds something else than text, numbers, lists and mappings.
    """
    for column, feature in rows.features.items():
        if bad := _binary(feature):
            raise DataError(f"{path.parent.name}: the column '{column}' holds {bad}; only benchmarks in text are asked")
    write_jsonl(path, [dict(row) for row in rows])
    return json.dumps(rows.features.to_dict())


def _binary(feature: Any) -> str | None:
    """Name what a feature holds that JSON cannot, at any depth; None where there is nothing."""
    if isinstance(feature, dict):
        return next(filter(None, map(_binary, feature.values())), None)
    if isinstance(feature, (list, tuple)):
        return next(filter(None, map(_binary, feature)), None)
    if hasattr(feature, "feature"):
        return _binary(feature.feature)
    if hasattr(feature, "decode"):
        return type(feature).__name__
    dtype = str(getattr(feature, "dtype", ""))
    return dtype if dtype.startswith(("binary", "large_binary", "timestamp", "date", "time", "duration")) else None


def replay(folder: Path) -> Source:
    """Give tasks the rows that a frozen benchmark holds.

    Args:
        folder: of the benchmark, in a data artifact.

    Raises:
        ArtifactError: there is none, or it lacks a data set that a task wants.
    """
    import datasets

    sources = describe(folder)["sources"]
    loaded: dict[str, Splits] = {}

    def rows(task: Any) -> Splits:
        name = key(task)
        if name not in sources:
            raise ArtifactError(f"{folder}: no rows of '{name}', which the task {task.config.task} reads; make it anew")
        if name not in loaded:
            loaded[name] = {
                split: datasets.Dataset.from_list(
                    read_jsonl(folder / name / f"{split}.jsonl"),
                    features=datasets.Features.from_dict(json.loads(facts["features"])),
                )
                for split, facts in sources[name]["splits"].items()
            }
        return loaded[name]

    return rows


def describe(folder: Path) -> dict[str, Any]:
    """Read what a frozen benchmark is. Raises ArtifactError when the data artifact holds none there."""
    if not (folder / DESCRIPTION).is_file():
        known = ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{DESCRIPTION}"))) or "none"
        raise ArtifactError(
            f"{folder}: the data holds no benchmark '{folder.name}' (there are: {known}); name it under `benchmarks:` "
            f"of the recipe's data.yaml"
        )
    description: dict[str, Any] = read_json(folder / DESCRIPTION)
    return description
