"""Evaluation files of a recipe against the data that they ask about: controls, and columns that are scored apart."""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from tasks.check.files import Recipe
from tasks.check.metrics import evaluations
from tasks.data import Config as DataConfig
from tasks.evaluate import Config as EvaluateConfig
from tasks.evaluation.task_files import TaskChoice, load_task, rows_file
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
    folder = under_check.folder
    for file, data in evaluations(under_check.graph).items():
        asked, config = under_check.of(file, EvaluateConfig), under_check.of(f"{data}.yaml", DataConfig)
        if asked is None or config is None:
            continue
        for number, choice in enumerate(asked.tasks):
            if not isinstance(choice, TaskChoice):  # a benchmark is scored by the harness alone
                continue
            name = None
            with contextlib.suppress(PolmError):  # said by `metrics.of_file`
                path = folder / choice.file
                name = _set_of(rows_file(path, load_task(path)), config.sets)
            if name is not None:
                place = f"{folder / file}: tasks.{number}"
                wrong = _wrong(choice, name, config.sets[name], folder / f"{data}.yaml")
                yield from (f"{place}.{fault}" for fault in wrong)


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


def _columns(name: str, rows: Set) -> set[str]:
    """List the columns that every row of a set has."""
    made = set.intersection(*(set(entry.map) for entry in rows.rows)) - set(TAKEN)
    return made | set(WRITTEN) | ({"prompt"} if kind_of(name) == "preferences" else set())
