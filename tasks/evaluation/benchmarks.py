"""Benchmarks of lm-evaluation-harness, asked off-line from the documents that the data stage froze.

Prompts, filters and grades are the harness's own. What is added is a score of every row, an interval, and the order of
things: whatever is wrong with a benchmark shows before the model is loaded.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.evaluation.context import TooLong
from tasks.export.multimodal_session import is_hearing, is_seeing
from tasks.ingestion import frozen_tasks, harness_index
from tasks.models.multimodal import is_multimodal
from tasks.stage.config import Strict
from tasks.stage.errors import ConfigError, DataError

log = logging.getLogger("polm")


class BenchmarkChoice(Strict):
    """One benchmark, by the name of a task, group or tag of lm-evaluation-harness that data.yaml freezes."""

    benchmark: str
    """Name of the harness's, a key of `benchmarks:` in data.yaml."""
    limit: int | None = Field(default=None, gt=0)
    """Documents of each task to ask, from the first; null asks all that were frozen."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples shown before each question; null is the number in data.yaml, and a task that sets 0 keeps it."""
    apply_chat_template: bool = True
    """Whether a question is put in the model's chat template, examples as turns of their own. As a plain text, which is
    the harness's default, it suits a base model."""


@dataclass
class Asked:
    """A benchmark that is ready to be asked."""

    choice: BenchmarkChoice
    """What the recipe says."""
    frozen: Mapping[str, Any]
    """What the data artifact says of it."""
    loaded: dict[str, Any]
    """Tasks and groups of the harness."""

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return self.choice.benchmark

    @property
    def limit(self) -> int | None:
        """Documents of each task to ask, from the first; None asks all."""
        limit: int | None = self.frozen["limit"] if self.choice.limit is None else self.choice.limit
        return limit

    @property
    def tasks(self) -> dict[str, Any]:
        """Tasks by name."""
        return dict(self.loaded["tasks"])


def prepare_all(
    choices: Sequence[Any],
    params_file: Path,
    data: Path,
    model: Path,
    seed: int,
    too_long: TooLong,
    taken: Sequence[str],
) -> list[Asked]:
    """Build the benchmarks of a recipe, and refuse now what would fail once the model is loaded.

    Args:
        choices: what the recipe asks; what is no benchmark is passed over.
        params_file: the recipe's evaluate.yaml, for messages.
        data: data artifact.
        model: a model folder, or a form of an export.
        seed: of the few-shot examples, and of the choices that a task shuffles.
        too_long: treatment of a question that does not fit the context.
        taken: names of the recipe's own tasks.

    Raises:
        ConfigError: as `prepare`, and for a model or a setting with which a benchmark cannot be asked.
    """
    published: list[Asked] = []
    names = set(taken)
    for number, choice in enumerate(choices):
        if not isinstance(choice, BenchmarkChoice):
            continue
        place = f"{params_file}: tasks.{number}"
        exported = (model / "genai_config.json").is_file()
        if is_seeing(model) or is_hearing(model) if exported else is_multimodal(model):
            raise ConfigError(
                f"{place}: a benchmark is in words, and {model} takes more; ask the model it is made from"
            )
        asked = prepare(choice, data, place, seed)
        if too_long == "unanswered":
            refuse_unanswered(asked, place)
        if exported:
            refuse_for_export(asked, place)
        for name, _, _ in named_scores(asked):
            if name in names:
                raise ConfigError(f"{place}: a task '{name}' is asked already; drop one, or rename your own")
            names.add(name)
        published.append(asked)
    return published


def prepare(choice: BenchmarkChoice, data: Path, place: str, seed: int) -> Asked:
    """Build a benchmark from its frozen documents.

    Args:
        choice: of the recipe.
        data: data artifact.
        place: file and key of the recipe, for messages.
        seed: of the few-shot examples, and of the choices that a task shuffles.

    Raises:
        ArtifactError: the data holds no such benchmark.
        ConfigError: it wants more documents or examples than were frozen, or may not run code.
        DataError: a package or a resource is missing that its grades need.
    """
    folder = data / frozen_tasks.FOLDER / choice.benchmark
    frozen = frozen_tasks.describe(folder)
    if frozen["lm_eval"] != version("lm_eval"):
        log.warning(
            "warning: %s was frozen with lm_eval %s and is asked with %s, whose tasks may differ",
            folder, frozen["lm_eval"], version("lm_eval"),
        )  # fmt: skip
    if choice.limit is not None and frozen["limit"] is not None and choice.limit > frozen["limit"]:
        raise ConfigError(
            f"{place}: limit is {choice.limit}, and data.yaml keeps {frozen['limit']} documents of each task; ask at "
            f"most these, or raise `benchmarks.{choice.benchmark}.limit` there"
        )
    known = harness_index.find(choice.benchmark, place)
    for leaf in known.leaves:
        if leaf.config.get("unsafe_code") and not frozen["unsafe_code"]:
            raise ConfigError(
                f"{place}: the task {leaf.name} runs code that the model writes; set "
                f"`benchmarks.{choice.benchmark}.unsafe_code: true` in data.yaml where this machine may run it"
            )
    asked = Asked(choice, frozen, frozen_tasks.build(known, frozen_tasks.replay(folder), seed))
    for name, task in asked.tasks.items():
        kept = frozen["tasks"][name]["num_fewshot"]
        wanted = frozen["num_fewshot"] if choice.num_fewshot is None else choice.num_fewshot
        if (shown := frozen_tasks.set_examples(task, wanted)) > kept:
            raise ConfigError(
                f"{place}: num_fewshot is {shown}, and data.yaml keeps the examples for {kept}; set "
                f"`benchmarks.{choice.benchmark}.num_fewshot: {shown}` there"
            )
        task.set_fewshot_seed(seed)
        if not frozen["unsafe_code"]:
            _try_grades(task, asked.limit, place)
    return asked


def _try_grades(task: Any, limit: int | None, place: str) -> None:
    """Grade a made-up answer to every document: a resource that is missing would else show once all are answered.

    Raises:
        DataError: the grader looks for a resource that is not there, as NLTK's does.
    """
    if not callable(task.config.process_results) or task.OUTPUT_TYPE != "generate_until":
        return
    for number, document in task.doc_iterator(limit=limit, rank=0, world_size=1):
        try:
            task.process_results(document, ["1"])
        except (ImportError, OSError) as e:
            raise DataError(f"{place}: the grades of {task.config.task} need what is not here: {e}") from e
        except Exception as e:  # NLTK's own is a bare LookupError; others are about the answer, which is no real one
            if type(e) is LookupError:
                raise DataError(
                    f"{place}: the grades of {task.config.task}, document {number}, need {_resource(str(e))}, or leave "
                    f"the benchmark out"
                ) from e


def _resource(message: str) -> str:
    """Say what a grader looked for in vain, and how to get it: NLTK's message names the resource in a call."""
    if name := re.search(r"nltk\.download\('([\w.-]+)'\)", message):
        return (
            f"NLTK's `{name[1]}`, which is not here; run `python -m nltk.downloader {name[1]}`, on a machine with a "
            f"network if this one has none, and copy the folder `nltk_data` that it makes to the home directory here"
        )
    return f"a resource that is not here ({' '.join(message.split())[:200]}); fetch it once"


def refuse_unanswered(asked: Asked, place: str) -> None:
    """Raise ConfigError where an unanswered question, which scores 0, would have the best score."""
    for name, task in asked.tasks.items():
        lower = [metric for metric, higher in task.higher_is_better().items() if higher is False]
        if task.OUTPUT_TYPE == "generate_until" and lower:
            raise ConfigError(
                f"{place}: `too_long: unanswered` scores 0, the best of {', '.join(lower)} in {name}; set `error`"
            )


def refuse_for_export(asked: Asked, place: str) -> None:
    """Raise ConfigError for what ONNX Runtime GenAI cannot do: draw answers, or go on with one that was begun."""
    for name, task in asked.tasks.items():
        drawn = task.config.generation_kwargs or {}
        if task.OUTPUT_TYPE == "generate_until" and (drawn.get("do_sample") or drawn.get("temperature")):
            raise ConfigError(f"{place}: {name} draws its answers, and an ONNX form answers greedily; leave it out")
        if task.config.gen_prefix is not None and asked.choice.apply_chat_template:
            raise ConfigError(
                f"{place}: {name} begins the answer itself, which an ONNX form's chat template cannot; set "
                f"`apply_chat_template: false`, or leave it out"
            )


def named_scores(asked: Asked) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield what becomes an entry of `results.json`: its name, its group (None for a task alone), and its tasks.

    A group whose scores the harness does not join is no entry, and neither is a tag: their members are.
    """
    groups = asked.loaded.get("groups") or {}
    if asked.name in groups:
        yield from _entries(groups[asked.name])
    else:
        yield from ((name, None, [task]) for name, task in asked.tasks.items())


def _entries(group: Any) -> Iterator[tuple[str, Any, list[Any]]]:
    if group.has_aggregation:
        yield group.name, group, group.get_all_tasks()
        return
    for member in group:
        if hasattr(member, "get_all_tasks"):
            yield from _entries(member)
        else:
            yield member.task_name, None, [member]
