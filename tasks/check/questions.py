"""Evaluation files of a recipe against the data that they ask about: controls, and the columns that are read.

Columns are those that rows are scored apart by, that a task's templates name, and that its grader asks a made-up row
for.
"""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tasks.check import model_facts
from tasks.check.files import Recipe
from tasks.check.metrics import evaluations, loaded
from tasks.data import Config as DataConfig
from tasks.evaluate import Config as EvaluateConfig
from tasks.evaluation.task_files import TaskChoice, rows_file
from tasks.ingestion.mapping import AUDIO, IMAGES, VIDEO, kind_of
from tasks.ingestion.settings import Set
from tasks.multimodal.controls import HEARD, REVERSED, SHOWN
from tasks.stage.config import suggest
from tasks.stage.data_folder import set_folder
from tasks.stage.errors import PolmError

WRITTEN = ("id", "source")
"""Columns that the data stage gives every row."""
TAKEN = ("group", VIDEO)
"""Keys of a map that become no column: one binds rows together, the other becomes `images`."""


def check_questions(under_check: Recipe) -> Iterator[str]:
    """Check that controls replace what rows show, and that rows have the columns of `group_by`."""
    folder, facts = under_check.folder, model_facts.find(under_check)
    for file, data in evaluations(under_check.graph).items():
        asked, config = under_check.of(file, EvaluateConfig), under_check.of(f"{data}.yaml", DataConfig)
        if asked is None or config is None:
            continue
        for number, choice in enumerate(asked.tasks):
            if not isinstance(choice, TaskChoice):  # a benchmark is scored by the harness alone
                continue
            name, path, task = None, folder / choice.file, {}
            with contextlib.suppress(PolmError):  # said by `metrics.of_file`
                task = loaded(path)
                name = _set_of(rows_file(path, task), config.sets)
                yield from _answers(path, task, facts.context if facts else 0)
            if name is not None:
                yield from _unknown(path, task, name, _columns(name, config.sets[name]), folder / f"{data}.yaml")
                place = f"{folder / file}: tasks.{number}"
                wrong = _wrong(choice, name, config.sets[name], folder / f"{data}.yaml")
                yield from (f"{place}.{fault}" for fault in wrong)


def _answers(path: Path, task: dict[str, Any], context: int) -> Iterator[str]:
    """Say where answers may have no token, or as many as the model can read, which leaves the question none."""
    key, most = "generation_kwargs.max_gen_toks", (task.get("generation_kwargs") or {}).get("max_gen_toks")
    if not isinstance(most, int):
        return
    if most < 1:
        yield f"{path}: {key} is {most}; expected a number of tokens of an answer, at least 1"
    elif context and most >= context:
        yield (
            f"{path}: {key} is {most} tokens, and the model takes {context}, question and answer together; set it to "
            f"what the longest answer needs"
        )


def _set_of(file: str, sets: Collection[str]) -> str | None:
    """Find the set that makes a file of rows."""
    for name in sets:
        made = (
            [f"eval/{name.removeprefix('eval:')}.jsonl"]
            if name.startswith("eval:")
            else [f"{set_folder(name)}/{split}.jsonl" for split in ("train", "validation")]
        )
        if file in made:
            return name
    return None


def _wrong(choice: TaskChoice, name: str, rows: Set, data: Path) -> Iterator[str]:
    columns = _columns(name, rows)
    for column in choice.group_by:
        if column not in columns:
            yield (
                f"group_by names '{column}', and rows of '{name}' in {data} have no such column"
                f"{suggest(column, columns)}; add it to the map"
            )
    keys = {key for entry in rows.rows for key in entry.map}
    heard, shown = AUDIO in keys, bool(keys & {IMAGES, VIDEO})
    if choice.controls and not (heard or shown):
        yield f"controls: rows of '{name}' in {data} show nothing that could be replaced; drop `controls`"
        return
    known = HEARD if heard else SHOWN
    for control in choice.controls:
        if control not in known:
            yield (
                f"controls names '{control}', which is none of {'sounds' if heard else 'pictures'}, and these are what "
                f"'{name}' in {data} has; take of {', '.join(known)}"
            )
        elif control == REVERSED and REVERSED not in columns:
            yield (
                f"controls names '{REVERSED}', and rows of '{name}' in {data} have no column '{REVERSED}', the answer "
                f"that is then right; add it to the map"
            )


TEMPLATES = ("doc_to_text", "doc_to_target")
"""Keys of a task file whose Jinja text is filled in with a row; the harness takes a column's name too."""


def _unknown(path: Path, task: dict[str, Any], name: str, columns: set[str], data: Path) -> Iterator[str]:
    """Say which columns a task's templates and its grader read that its rows have not."""
    import jinja2
    from jinja2 import meta

    for key in TEMPLATES:
        template = task[key]
        if not isinstance(template, str):
            continue
        try:
            read = meta.find_undeclared_variables(jinja2.Environment().parse(template))  # parsed only
        except jinja2.TemplateSyntaxError as e:
            yield f"{path}: {key}: line {e.lineno}: {e.message}; it is a Jinja template, e.g. '{{{{question}}}}'"
            continue
        for column in sorted(read - columns):
            yield (
                f"{path}: {key} names '{column}', and rows of '{name}' in {data} have no such column"
                f"{suggest(column, columns)}; add it to the map"
            )
    row = _Row(dict.fromkeys(columns, "1"))
    with contextlib.suppress(Exception):  # of a made-up row, only what it is asked for counts
        task["process_results"](row, ["1"] if task["output_type"] == "generate_until" else [(-1.0, False)])
    for column in row.missed:
        yield (
            f"{path}: process_results: {task['process_results'].__name__} reads '{column}', and rows of '{name}' in "
            f"{data} have no such column{suggest(column, columns)}; add it to the map"
        )


class _Row(dict[str, Any]):
    """A made-up row that remembers which columns it was asked for and has not."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.missed: list[str] = []

    def __missing__(self, column: str) -> Any:
        self.missed.append(column)
        raise KeyError(column)


def _columns(name: str, rows: Set) -> set[str]:
    """List the columns that every row of a set has."""
    maps = [set(entry.map) | ({IMAGES} if VIDEO in entry.map else set()) for entry in rows.rows]
    made = set.intersection(*maps) - set(TAKEN)
    return made | set(WRITTEN) | ({"prompt"} if kind_of(name) == "preferences" else set())
