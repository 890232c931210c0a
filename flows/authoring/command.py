"""`polm new`: look at a model and data, show what was found and chosen, ask, and write a recipe, or nothing of it."""

import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import typer

from flows import workspace
from flows.authoring import (
    choices,
    documents,
    encoders,
    findings,
    graph,
    losses,
    model,
    questions,
    reader_files,
    reading,
    recipe_files,
    rows,
    tools,
)
from flows.registry.policy import load_policy
from flows.terminal.board import say, screen
from tasks.ingestion.benchmarks import Benchmark, find
from tasks.ingestion.recognition import formats, sample
from tasks.stage.errors import ConfigError, PolmError

PARAMS = Path("params")
COPIED = {
    "images": "params/qwen3_vl (a model that sees) or params/smollm2 (`sight`, `vlm`: eyes for one that does not)",
    "audio": "params/qwen3 (`librispeech`, `hearing` and `speech`: ears for a model of words)",
}
"""What rows show to the recipe that learns from such."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def found(name: str, data: Sequence[str]) -> tuple[str, list[str]]:
    """Make paths that exist here absolute, before the working directory changes; hub ids stay as they are."""

    def absolute(where: str) -> str:
        path, colon, rest = where.partition(":")
        there = Path(path).exists() or (not colon and documents.are_documents(path))
        return f"{Path(path).absolute()}{colon}{rest}" if there else where

    return absolute(name), [absolute(where) for where in data]


def main(
    name: str,
    base: str,
    data: Sequence[str],
    methods: str,
    benchmarks: str | None,
    licence: str,
    *,
    yes: bool,
    encoder: str | None = None,
) -> None:
    """Write `params/<name>/` and make it the active recipe.

    Args:
        name: of the recipe.
        base: hub id, or folder, of the model to start from.
        data: files, folders of `save_to_disk`, and hub ids of data sets.
        methods: as `graph.plan` reads them.
        benchmarks: tasks of lm-evaluation-harness, with commas between.
        licence: of the data, and of a local model.
        yes: whether to write without asking.
        encoder: folder or hub id that the retriever of `rag` starts from; None chooses one.

    Raises:
        PolmError: what was given cannot become a recipe, or there is a recipe of this name; nothing was written.
    """
    _check_name(name)
    if twice := {where for where in data if list(data).count(where) > 1}:
        raise ConfigError(f"--data: {min(twice)} stands there twice; leave one out")
    if graph.RAG in (part.strip() for part in methods.split(",")):
        files, promoted = _reader(name, base, data, methods, benchmarks, licence, encoder)
    elif encoder is not None:
        raise ConfigError(f"--encoder: only `--methods {graph.RAG}` has a retriever; leave it out")
    else:
        files, promoted = _models(name, base, data, methods, benchmarks, licence)
    if not yes:
        if not sys.stdin.isatty():
            raise PolmError(f"params/{name}: nothing was written: there is no terminal to ask on; add `--yes`")
        typer.confirm(f"Write params/{name}?", abort=True, default=True)
    with workspace.run_lock():
        _write(name, files)
        workspace.choose_recipe(name)
    say(f"params/{name}: {len(files)} files, now the active recipe. Next:")
    for command in ("polm check", "polm run", *promoted):
        say(f"  {command}")


def _models(
    name: str, base: str, data: Sequence[str], methods: str, benchmarks: str | None, licence: str
) -> tuple[dict[str, str], list[str]]:
    """Plan models that learn from rows. Returns the files, and the commands that promote and serve the last model."""
    models, notices = graph.plan(methods)
    asked = [task.strip() for task in (benchmarks or "").split(",") if task.strip()]
    find({task: Benchmark(unsafe_code=True) for task in asked}, Path("--benchmarks"))
    with screen().status("looking at the data …"):
        sources = _sources(data, licence)
    with screen().status("looking at the model …"):
        look = model.look(_relative(base), licence)
        plan = rows.plan(sources, models, look)
        here = choices.machine()
        losses.check(plan, look, here)
    if not plan.tasks and not asked:
        raise ConfigError(
            "--data: a reply with a verdict is no answer to measure a model by, and nothing else is given; add "
            "questions and answers that `sft` learns from (`--methods sft,kto`), preferences, or `--benchmarks`"
        )
    files = recipe_files.write(name, look, models, plan, here, asked)
    promoted = recipe_files.exported(models)
    few = too_few(plan, load_policy(name).least_rows) if promoted else []
    said = [*plan.notices, *losses.notices(plan, look, here), *tools.notices(sources, look), *few]
    findings.show(look, sources, plan, here, files, [*notices, *said])
    return files, [f"polm promote {promoted[-1]} && polm serve"] if promoted else []


def _reader(
    name: str, base: str, data: Sequence[str], methods: str, benchmarks: str | None, licence: str, encoder: str | None
) -> tuple[dict[str, str], list[str]]:
    """Plan a reader of documents. Returns the files, and the commands that promote and serve it."""
    if methods.strip() != graph.RAG or benchmarks:
        raise ConfigError(
            f"--methods: {graph.RAG} stands alone, without other methods and --benchmarks; start from another recipe's "
            f"model by `--model artifacts/models/NAME`, or add to the recipe's graph (docs/retrieval.md)"
        )
    with screen().status("reading the documents …"):
        told, about = documents.parted([_relative(where) for where in data])
        if not about:
            raise ConfigError(
                f"--data: {', '.join(told)} are documents, and no file has questions about them, which the index is "
                f"fitted by and the reader learns from; add one, `--data questions.jsonl`, with columns `question` and "
                f"`answer` (docs/your-own.md)"
            )
        keys: list[str] = []
        for where in told:
            keys.append(re.sub(r"[^a-z0-9_]+", "_", rows.key_of(where.split("*")[0], keys)) or "docs")
        found = documents.look(dict(zip(keys, told, strict=True)), licence)
    with screen().status("looking at the model and for the answers …"):
        look, here = model.look(_relative(base), licence), choices.machine()
        asked, shape = reading.shape(look, found, lambda words: questions.read(about, found, words, licence), here)
        began = encoders.choose(None if encoder is None else _relative(encoder), licence)
    files = reader_files.write(name, look, found, asked, shape, began, here, licence)
    findings.show_reader(look, found, asked, shape, began, here, files)
    return files, ["polm promote reader && polm serve --rag"]


def too_few(plan: rows.Plan, least: int | None) -> list[str]:
    """Say which tasks will ask fewer rows than a promotion compares.

    Args:
        plan: sets and tasks.
        least: fewest rows of a comparison, by `mlflow/gates.yaml`; None for any number.
    """
    return [
        f"eval/{task}.yaml will ask about {plan.held_out(task)} rows of {' and '.join(s.sample.name for s in asked)}, "
        f"and `polm promote` compares no fewer than {least} (`least_rows` in mlflow/gates.yaml): have about "
        f"{math.ceil(rows.ENOUGH / plan.test / 10) * 10} rows"
        for task, asked in plan.tasks.items()
        if least is not None and plan.held_out(task) < least
    ]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"'{name}' is no name of a recipe: letters, digits, '_' and '-', of which it is a folder")
    if os.path.lexists(PARAMS / name):
        raise ConfigError(f"{PARAMS / name}: is there already; take another name, or move it away")


def _sources(data: Sequence[str], licence: str) -> list[rows.Source]:
    sources: list[rows.Source] = []
    for where in data:
        if documents.are_documents(_relative(where)) and Path(where).suffix.lower() != ".txt":
            raise ConfigError(
                f"--data: {_relative(where)} is documents, no rows; to answer by them, write `--methods {graph.RAG}` "
                f"and add a file of questions about them"
            )
        taken = sample.look(_relative(where), licence)
        key = rows.key_of(where, [source.key for source in sources])
        sources.append(rows.source(key, taken, formats.recognise(taken)))
    for source in sources:
        if (media := source.format.media) is not None:
            shown = next(iter(source.format.maps.values()))[0][media]
            raise ConfigError(
                f"--data: {source.sample.name} has rows with {media} (in a map `{media}: {shown}`); they need a model "
                f"that sees or hears, and data of their own under `media:`, which `polm new` does not write: copy "
                f"{COPIED[media]}, and see docs/multimodal.md"
            )
    return sources


def _relative(where: str) -> str:
    """Name a path below the working directory by its place there."""
    path, colon, rest = where.partition(":")
    inside = Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd())
    return f"{Path(path).relative_to(Path.cwd())}{colon}{rest}" if inside else where


def _write(name: str, files: dict[str, str]) -> None:
    """Write all files beside the place they belong to, and move them there at once. Raises ConfigError."""
    temp = Path(tempfile.mkdtemp(prefix=".new-", dir=PARAMS))
    try:
        for file, text in files.items():
            path = temp / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        temp.chmod(0o755)
        if os.path.lexists(PARAMS / name):
            raise ConfigError(f"{PARAMS / name}: is there already; take another name")
        temp.rename(PARAMS / name)
    except OSError as e:
        raise PolmError(f"{PARAMS / name}: cannot be written ({e.strerror}); nothing was") from None
    finally:
        shutil.rmtree(temp, ignore_errors=True)
