"""Prompts of published benchmarks against the model's context, examples and chat template included, before a training.

An evaluation refuses a prompt that leaves no room for its answer, hours after the training began, unless an answer that
is to be written may count as wrong (`too_long: unanswered`). Looked at are the documents that the data artifact froze,
if it is this recipe's, else those of a local folder in the place of the data set; else one line says that they were not
looked at. Of each task the first documents are made into prompts, so what is found is a lower bound. Left out: texts
that are read in windows, which fit any context.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from tasks.check import context, model_facts
from tasks.check.benchmarks import known_of
from tasks.check.files import Recipe, quiet
from tasks.check.rows import DATA
from tasks.data import Config as DataConfig
from tasks.evaluate import Config
from tasks.evaluation.benchmarks import BenchmarkChoice, prepare
from tasks.evaluation.shown import DEFAULT_TOKENS
from tasks.ingestion import frozen_tasks
from tasks.ingestion.benchmarks import Benchmark, freeze
from tasks.ingestion.evaluation_rows import EvaluationRows
from tasks.stage import artifact
from tasks.stage.config import digest
from tasks.stage.errors import PolmError

FIRST = 40
"""Documents of a task that are made into prompts."""
EVALUATION = "evaluate.yaml"


def check(under_check: Recipe) -> Iterator[str]:
    """Name the benchmarks whose prompts do not fit the context of the base model."""
    facts = model_facts.find(under_check)
    if facts is None or not facts.context:
        return
    for place, choice, frozen in _asked(under_check):
        tokenizer, wrong = context.tokenizer(facts, under_check)
        config = under_check.of(EVALUATION, Config)
        if tokenizer is None or wrong or config is None:
            return
        data = under_check.of("data.yaml", DataConfig)
        with tempfile.TemporaryDirectory(prefix="polm-prompts-") as temp:
            try:
                with quiet():
                    found = _frozen(under_check, choice.benchmark, frozen, data.seed if data else 0, Path(temp))
                    if found is None:
                        continue
                    tasks = prepare(choice, found, place, config.seed).tasks
                    lengths = [
                        (name, *size)
                        for name, task in sorted(tasks.items())
                        if task.OUTPUT_TYPE != "generate_until" or config.too_long == "error"
                        for size in _lengths(task, choice, tokenizer, config.chat_template_args)
                    ]
            except (PolmError, TemplateError, ValueError, TypeError, KeyError):  # the stages say what is wrong with it
                continue
        over = [entry for entry in lengths if entry[1] + entry[2] > facts.context]
        if over:
            task, prompt, answer = max(over, key=lambda entry: entry[1])
            yield (
                f"{place}: of the first {len(lengths)} prompts of {choice.benchmark} {len(over)} do not fit "
                f"{facts.place}, which takes {facts.context} tokens: one of {task} has {prompt}, and its answer up to "
                f"{answer}; set a lower num_fewshot here, or take a model that reads more"
            )


def notices(under_check: Recipe) -> Iterator[str]:
    """Name the benchmarks whose prompts cannot be looked at."""
    facts = model_facts.find(under_check)
    for place, choice, _ in _asked(under_check):
        if facts is None or not facts.context:
            yield f"{place}: whether the prompts of {choice.benchmark} fit the model's context was not looked at"
        elif not (_made(under_check) or _local(choice.benchmark, under_check)):
            yield (
                f"{place}: whether the prompts of {choice.benchmark} fit the model's context was not looked at: its "
                f"documents are fetched by the data stage (`polm run --target data`, then `polm check`)"
            )


def _asked(under_check: Recipe) -> Iterator[tuple[str, BenchmarkChoice, Benchmark]]:
    """Yield the benchmarks that are asked: file and key, what is asked, and what data.yaml says of it."""
    config, data = under_check.of(EVALUATION, Config), under_check.of("data.yaml", DataConfig)
    if config is None or data is None:
        return
    for at, choice in enumerate(config.tasks):
        if isinstance(choice, BenchmarkChoice) and choice.benchmark in data.benchmarks:
            yield f"{under_check.folder / EVALUATION}: tasks.{at}", choice, data.benchmarks[choice.benchmark]


def _made(under_check: Recipe) -> bool:
    """Whether the data artifact is that of the recipe's data.yaml."""
    config = under_check.configs.get("data.yaml")
    manifest = DATA / artifact.MANIFEST
    return config is not None and manifest.exists() and artifact.read_manifest(DATA).params == digest(config)


def _local(name: str, under_check: Recipe) -> bool:
    """Whether folders stand in for all data sets of a benchmark."""
    data = under_check.of("data.yaml", DataConfig)
    known = known_of(name, data.benchmarks[name], under_check.folder / "data.yaml") if data else None
    paths = [leaf.config.get("dataset_path") for leaf in known.leaves] if known is not None else []
    return bool(paths) and all(isinstance(path, str) and Path(path).is_dir() for path in paths)


def _frozen(under_check: Recipe, name: str, settings: Benchmark, seed: int, temp: Path) -> Path | None:
    """Find the data artifact with a benchmark's documents, or freeze those of a local folder; None without either."""
    if _made(under_check) and (DATA / frozen_tasks.FOLDER / name).is_dir():
        return DATA
    path = under_check.folder / "data.yaml"
    known = known_of(name, settings, path) if _local(name, under_check) else None
    if known is None:
        return None
    freeze(known, settings, temp, path, seed, EvaluationRows(8, 1.0))
    return temp


def _lengths(task: Any, choice: BenchmarkChoice, tokenizer: Any, template: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the tokens of the first prompts of a task, and those that each answer has or may have.

    The harness itself makes the prompts, as the evaluation has it make them.
    """
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return

    def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        given = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return str(tokenizer.apply_chat_template(history, tokenize=False, **given, **template))

    chat = choice.apply_chat_template
    task.build_all_requests(
        limit=FIRST if choice.limit is None else min(FIRST, choice.limit), rank=0, world_size=1,
        apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=render if chat else None,
        tokenizer_name=tokenizer.name_or_path if chat else "",
    )  # fmt: skip
    for request in task.instances:
        prompt = len(tokenizer(request.args[0], add_special_tokens=False)["input_ids"])
        if task.OUTPUT_TYPE == "generate_until":
            yield prompt, int(request.args[1].get("max_gen_toks", DEFAULT_TOKENS))
        else:
            yield prompt, len(tokenizer(request.args[1], add_special_tokens=False)["input_ids"])
