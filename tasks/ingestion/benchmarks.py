"""Benchmarks that others publish, frozen: the documents of a task of lm-evaluation-harness become part of the data.

What is asked later is then what was downloaded once, whatever its publisher does, and no training row may contain it.
Few-shot examples come from a split of their own where a benchmark has one, which is often what models are trained on:
they are frozen too, and training rows are not kept away from them.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.ingestion import frozen_tasks, harness_index
from tasks.ingestion.data_sets import identity, load_splits
from tasks.ingestion.evaluation_rows import EvaluationRows
from tasks.stage.artifact import write_json, write_jsonl
from tasks.stage.config import Strict
from tasks.stage.errors import ConfigError, DataError


class Benchmark(Strict):
    """One entry of `benchmarks:` in data.yaml, by the name of a task, group or tag of lm-evaluation-harness."""

    limit: int | None = Field(default=None, gt=0)
    """Documents of each task that may be asked, from the first; null keeps all."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Most examples that a question may be asked with; null is each task's own number."""
    unsafe_code: bool = False
    """Whether a task may run the code that a model writes on the machine that evaluates."""


def find(benchmarks: Mapping[str, Benchmark], params_file: Path) -> dict[str, harness_index.Known]:
    """Find every benchmark of a recipe among the harness's tasks, before anything is downloaded.

    Args:
        benchmarks: of the recipe.
        params_file: its data.yaml, for messages.

    Raises:
        ConfigError: a name that the harness has not, a task that runs code without leave, or that shows pictures.
    """
    found = {}
    for name, settings in benchmarks.items():
        place = f"{params_file}: benchmarks.{name}"
        found[name] = harness_index.find(name, place)
        for leaf in found[name].leaves:
            if leaf.config.get("unsafe_code") and not settings.unsafe_code:
                raise ConfigError(
                    f"{place}: the task {leaf.name} runs code that the model writes; set `unsafe_code: true` here "
                    f"where the machine that evaluates may run it, or leave the benchmark out"
                )
            if leaf.config.get("doc_to_image") or leaf.config.get("doc_to_audio"):
                raise ConfigError(f"{place}: the task {leaf.name} shows pictures or sounds; only words are asked")
    return found


def freeze(
    known: harness_index.Known,
    settings: Benchmark,
    out: Path,
    params_file: Path,
    seed: int,
    evaluation: EvaluationRows,
) -> dict[str, Any]:
    """Write the documents of one benchmark, and keep training rows away from them.

    Args:
        known: what `find` found.
        settings: of the recipe.
        out: data artifact.
        params_file: the recipe's data.yaml, for messages.
        seed: of the choices that a task shuffles.
        evaluation: is told the texts of every document.

    Returns:
        What `benchmark.json` holds, without the columns' types.

    Raises:
        DataError: a data set cannot be loaded, or cannot be kept.
    """
    folder = out / frozen_tasks.FOLDER / known.name
    place = f"{params_file}: benchmarks.{known.name}"
    loaded: dict[str, Any] = {}
    tasks: dict[str, list[Any]] = {}

    def download(task: Any) -> Mapping[str, Any]:
        name = frozen_tasks.key(task)
        if name not in loaded:
            loaded[name] = load_splits(task, place)
        tasks.setdefault(name, []).append(task)
        return dict(loaded[name])

    built = frozen_tasks.build(known, download, seed)["tasks"]
    for task in built.values():
        shown, there = frozen_tasks.set_examples(task, settings.num_fewshot), len(task.sampler.df)
        if shown > there:
            raise DataError(
                f"{place}: num_fewshot is {shown}, and the split '{task.fewshot_cfg.split}' of the task "
                f"{task.config.task} has {there}; ask for fewer examples"
            )
    sources = {
        name: {**identity(tasks[name][0], loaded[name]), "splits": _write(folder / name, splits, tasks[name], settings)}
        for name, splits in loaded.items()
    }
    description = {
        "benchmark": known.name,
        "lm_eval": version("lm_eval"),
        **settings.model_dump(),
        "tasks": {name: _facts(task, settings) for name, task in built.items()},
        "sources": sources,
    }
    write_json(folder / frozen_tasks.DESCRIPTION, description)
    questions = []
    for name, task in frozen_tasks.build(known, frozen_tasks.replay(folder), seed)["tasks"].items():
        for number, document in _documents(task, settings.limit):
            asked, others = _texts(task, document)
            evaluation.protect_texts(f"{known.name}#{name}:{number}", asked, others)
            questions.append({"id": f"{name}:{number}", "texts": list(dict.fromkeys(asked))})
    if len(questions) != (kept := sum(task["documents"] for task in description["tasks"].values())):
        raise DataError(
            f"{place}: {kept} documents were frozen, and {len(questions)} come back; leave the benchmark out"
        )
    write_jsonl(folder / frozen_tasks.QUESTIONS, questions)
    for facts in sources.values():
        facts["splits"] = {split: {"rows": said["rows"], "of": said["of"]} for split, said in facts["splits"].items()}
    return description


def _write(folder: Path, splits: Mapping[str, Any], tasks: list[Any], settings: Benchmark) -> dict[str, Any]:
    """Write what the tasks of one data set read of its splits. Returns split to `rows`, `of` all, and `features`."""
    wanted: dict[str, int | None] = {}  # None: every row
    for task in tasks:
        for split, rows in _wanted(task, splits, settings.limit):
            before = wanted.get(split, 0)
            wanted[split] = None if rows is None or before is None else max(rows, before)
    written = {}
    for split, most in sorted(wanted.items()):
        kept = splits[split] if most is None else splits[split].select(range(min(most, len(splits[split]))))
        features = frozen_tasks.write_split(folder / f"{split}.jsonl", kept)
        written[split] = {"rows": len(kept), "of": len(splits[split]), "features": features}
    return written


def _wanted(task: Any, splits: Mapping[str, Any], limit: int | None) -> Iterator[tuple[str, int | None]]:
    """Yield each split that a task reads, with the number of its first rows that are enough; None where all are read.

    The harness hands the few-shot split to its sampler whether or not it shows examples, so one row of it stays.
    """
    config = task.config
    if type(task).__name__ != "ConfigurableTask" or callable(config.custom_dataset):
        yield from ((split, None) for split in splits)  # code of its own may read any of them
        return
    asked = config.test_split or config.validation_split
    shaped = config.process_docs is not None  # it may drop rows, so that no number of them is enough
    yield asked, None if shaped or limit is None else limit
    examples = task.fewshot_cfg.split
    if examples is None and task.fewshot_cfg.samples is None:
        examples = config.training_split or config.validation_split or config.test_split
    if examples is not None:
        yield examples, None if config.num_fewshot else 1


def _facts(task: Any, settings: Benchmark) -> dict[str, Any]:
    """Return what a task asks: its data set, split, documents and examples."""
    config = task.config
    return {
        "source": frozen_tasks.key(task),
        "split": config.test_split or config.validation_split,
        "fewshot_split": task.fewshot_cfg.split,
        "num_fewshot": config.num_fewshot,
        "documents": sum(1 for _ in _documents(task, settings.limit)),
        "of": len(task.eval_docs),
        "version": str(task.VERSION),
    }


def _documents(task: Any, limit: int | None) -> Iterator[tuple[int, Any]]:
    """Yield the documents that may be asked, each with its number in the harness's order, from 0."""
    yield from task.doc_iterator(limit=limit, rank=0, world_size=1)


def _texts(task: Any, document: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Find what a training row must not contain of a document.

    A prompt has words of its own around the question (`Question: … Answer:`), which would hide a question that is
    quoted without them. So each text of the document that the prompt shows is looked for alone too.

    Returns:
        Texts that count however short they are: the prompt, and the longest text in it; and texts that count where
        they are long enough to be n-grams: the others, and the answer.
    """
    query = _query(task, document)
    target = task.doc_to_target(document)
    answers = [text for text in (target if isinstance(target, list) else [target]) if isinstance(text, str)]
    if isinstance(query, int):  # the question is one of the choices: each of them is a prompt
        query = task.doc_to_choice(document)[query]
    prompt = str(query).strip() or " ".join(answers)
    shown = sorted((text for text in _strings(document) if text.strip() and text.strip() in prompt), key=len)
    return [prompt, *shown[-1:]], [*shown[:-1], *answers]


def _query(task: Any, document: Mapping[str, Any]) -> Any:
    """Return the text by which a task would be told in other texts: its own for that, or the prompt.

    The harness's method of this purpose evaluates templates as Python literals, and so fails on most tasks.
    """
    from lm_eval.utils import apply_template

    query = task.config.doc_to_decontamination_query if task.config.should_decontaminate else None
    if query is None:
        return task.doc_to_text(document)
    if callable(query):
        return query(document)
    return document[query] if query in document else apply_template(query, document)


def _strings(value: Any) -> Iterator[str]:
    """Yield the texts inside lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
