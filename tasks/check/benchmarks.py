"""Benchmarks that evaluation files ask, against those that the data freeze: names, documents, examples, and metrics.

The harness's own files say which tasks a benchmark has and which metrics they give; no data is loaded, and of the
harness only the index of its tasks is imported. A task that is a class of its own says its metrics nowhere, so any name
behind its dot is taken.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.check.files import Recipe, quiet
from tasks.data import Config as DataConfig
from tasks.evaluation.benchmarks import BenchmarkChoice
from tasks.ingestion import harness_index
from tasks.ingestion.benchmarks import Benchmark, find
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError

ANY = ".*"
"""End of an entry that stands for every metric of a task: the harness says only when it runs which it has."""
PLAIN = "none"
"""Name of the filter that metrics are not named after."""


def check(under_check: Recipe) -> Iterator[str]:
    """Check that the harness has what each data file freezes, and may ask it."""
    for file in sorted(under_check.configs):
        config = under_check.of(file, DataConfig)
        for name, settings in (config.benchmarks if config else {}).items():
            try:
                _find(name, settings, under_check.folder / file)
            except ConfigError as e:
                yield str(e)


def _find(name: str, settings: Benchmark, path: Path) -> harness_index.Known:
    """Find what the harness has by a name. Raises ConfigError."""
    known = _found(name, settings, path)
    if isinstance(known, str):
        raise ConfigError(known)
    return known


@functools.cache
def _found(name: str, settings: Benchmark, path: Path) -> harness_index.Known | str:
    """Find it once, for several checks ask and a misspelt name takes seconds; the message where it cannot be asked."""
    try:
        with quiet():
            return find({name: settings}, path)[name]
    except ConfigError as e:
        return str(e)


def asked(choice: BenchmarkChoice, place: str, data: DataConfig, path: Path) -> tuple[set[str], list[str]]:
    """Hold one benchmark that is asked against the data that freeze it.

    Args:
        choice: entry of the evaluation file.
        place: that file, and the entry's key.
        data: content of the data file.
        path: the data file.

    Returns:
        The metrics that it gives, `task.metric` or `task.*`, and what is wrong.
    """
    name = choice.benchmark
    frozen = data.benchmarks.get(name)
    if frozen is None:
        hint = suggest(name, data.benchmarks) if data.benchmarks else ""
        remedy = f"{hint}; to freeze its documents, write `benchmarks: {{{name}: {{limit: null, num_fewshot: null}}}}`"
        return set(), [f"{place}: benchmark is '{name}', which `benchmarks` of {path} has not{remedy} there"]
    try:
        known = _find(name, frozen, path)
    except ConfigError:  # said of the data file
        return set(), []
    return set(_metrics(known)), list(_beyond(choice, place, frozen, known, path))


def _beyond(
    choice: BenchmarkChoice, place: str, frozen: Benchmark, known: harness_index.Known, path: Path
) -> Iterator[str]:
    """Say where more documents or examples are asked than are frozen."""
    key = f"benchmarks.{choice.benchmark}"
    if choice.limit is not None and frozen.limit is not None and choice.limit > frozen.limit:
        yield (
            f"{place}: limit is {choice.limit}, and {path} has {key}.limit {frozen.limit}; ask at most these, or raise "
            f"it there"
        )
    for leaf in known.leaves:
        own = leaf.config.get("num_fewshot")
        kept = own if frozen.num_fewshot is None or own == 0 else frozen.num_fewshot  # a task's own 0 stands
        if choice.num_fewshot is not None and own != 0 and choice.num_fewshot > (kept or 0):
            yield (
                f"{place}: num_fewshot is {choice.num_fewshot}, and {path} has {key}.num_fewshot "
                f"{'null' if frozen.num_fewshot is None else frozen.num_fewshot}, which keeps the examples for "
                f"{kept or 0}; set it to {choice.num_fewshot} there"
            )
            return


def known_of(name: str, settings: Benchmark, path: Path) -> harness_index.Known | None:
    """Find what the harness has by the name of a benchmark that data.yaml, at `path`, freezes; None for nothing."""
    known = _found(name, settings, path)
    return None if isinstance(known, str) else known


def _metrics(known: harness_index.Known) -> Iterator[str]:
    """Yield the metrics of a benchmark: of its group where the harness joins it, else of each of its tasks."""
    entry = known.index.get(known.name)
    config = getattr(entry, "cfg", None) or {}
    if config.get("aggregate_metric_list"):
        yield from _of_group(known, config["aggregate_metric_list"])
        return
    members = config.get("task") if len(known.leaves) > 1 else None
    nested = [member for member in members or () if not _is_task(member, known)]
    yield from (f"{member}{ANY}" for member in nested if isinstance(member, str))  # it may be joined itself
    yield from (f"{member['group']}{ANY}" for member in nested if isinstance(member, Mapping) and "group" in member)
    for leaf in known.leaves:
        yield from _of_task(leaf)


def _is_task(member: Any, known: harness_index.Known) -> bool:
    return member in {leaf.name for leaf in known.leaves} if isinstance(member, str) else "group" not in member


def _of_group(known: harness_index.Known, listed: Any) -> Iterator[str]:
    """Yield the joined metrics of a group; without filters of its own, under those of its tasks."""
    below = {metric.removeprefix(leaf.name) for leaf in known.leaves for metric in _of_task(leaf)}
    for joined in listed if isinstance(listed, list) else [listed]:
        filters = joined.get("filter_list")
        for chosen in [filters] if isinstance(filters, str) else filters or []:
            yield f"{known.name}.{_named(joined['metric'], chosen)}"
        if filters is None:
            same = {metric for metric in below if metric.partition("[")[0] == f".{joined['metric']}" or metric == ANY}
            yield from (f"{known.name}{metric}" for metric in same)


def _of_task(leaf: harness_index.Leaf) -> Iterator[str]:
    listed = leaf.config.get("metric_list")
    if not listed or leaf.config.get("class") is not None or not all(isinstance(m, Mapping) for m in listed):
        yield f"{leaf.name}{ANY}"
        return
    filters = [chosen["name"] for chosen in leaf.config.get("filter_list") or [{"name": PLAIN}]]
    for metric in listed:
        yield from (f"{leaf.name}.{_named(str(metric['metric']), chosen)}" for chosen in filters)


def _named(metric: str, chosen: str) -> str:
    return metric if chosen == PLAIN else f"{metric}[{chosen}]"
