"""Raw rows to training and evaluation sets.

Each source is read row by row, mapped to TRL's conversational formats by the recipe's templates, validated, normalised
and scrubbed; exact and near-duplicates go; what is left is split by a hash of its content, the same hash for every set,
so that no test row trains whatever set or wording it comes in; training rows that contain an evaluation text go too.
One row of the tiny recipe's source, and what becomes of it in `sft/train.jsonl`:

    {"question": "What is 58 + 67?", "reply": "The answer is 125.", "answer": "125", "digits": 2, "group": "58+67"}
    {"id": "…", "messages": [{"role": "user", "content": "What is 58 + 67?"},
                             {"role": "assistant", "content": "The answer is 125."}], "source": "conversations"}

Left out on purpose: language identification, quality classifiers, and any promise that scrubbing finds everything.
Near-duplicates are looked for inside a set, not across sets; across sets only evaluation rows are protected.
"""

import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from tasks.ingestion import benchmarks, splits
from tasks.ingestion import cleaning as clean
from tasks.ingestion.benchmarks import Benchmark
from tasks.ingestion.duplicates import unique
from tasks.ingestion.evaluation_rows import EvaluationRows, evaluation_files, training_files
from tasks.ingestion.ledger import Item, Ledger
from tasks.ingestion.lines import Reject
from tasks.ingestion.mapping import (
    HONOURED_ELSEWHERE,
    MEDIA,
    TRAINED,
    TURNS,
    check_map,
    columns,
    first_prompt,
    kind_of,
    render,
    unused,
    validate,
)
from tasks.ingestion.media import Media
from tasks.ingestion.media_columns import spiller
from tasks.ingestion.pictures import PictureSettings
from tasks.ingestion.settings import SETS, Decontamination, NearDuplicates, Rows, Set, Split
from tasks.ingestion.sounds import SoundSettings
from tasks.ingestion.sources import Source, Table, read
from tasks.ingestion.values import BadRow, Columns
from tasks.ingestion.videos import VideoSettings
from tasks.stage import needs
from tasks.stage.artifact import write_json, write_jsonl
from tasks.stage.config import StageConfig, suggest
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage

log = logging.getLogger("polm")
NAMES = r"^[\w.-]+$"
"""Regular expression of a benchmark's name."""
SPILL = "spill"
"""Folder of bytes out of rows, while the artifact is made."""


class Config(StageConfig):
    """params/<recipe>/data.yaml."""

    split: Split
    """Shares held out."""
    scrub: list[clean.Kind]
    """What to scrub. Numbers may look like phones or cards: leave those out where numbers are the subject."""
    near_duplicates: NearDuplicates
    """Settings of near-duplicate removal."""
    decontamination: Decontamination
    """Settings of decontamination."""
    max_bad_share: float = Field(ge=0, le=1)
    """Share of a source's rows, 0 to 1, that may be bad before the stage stops."""
    report_examples: int = Field(ge=0)
    """Examples kept in the report for each reason why rows were dropped."""
    pictures: PictureSettings | None = None
    """Bounds and likeness of pictures; needed where a map has `images` or `video`."""
    videos: VideoSettings | None = None
    """Which frames of a clip are taken; needed where a map has `video`."""
    sounds: SoundSettings | None = Field(default=None, exclude_if=lambda sounds: sounds is None)
    """Form and bounds of sounds; needed where a map has `audio`. Where it is not given, no manifest names it."""
    sources: dict[str, Source]
    """Name to source."""
    sets: dict[Annotated[str, StringConstraints(pattern=SETS)], Set]
    """`pretrain`, `eval:<task>`, `sft`, `preferences`, `feedback`, `prompts` (or `sft:<name>`, …) to how it is made."""
    benchmarks: dict[Annotated[str, StringConstraints(pattern=NAMES)], Benchmark] = Field(
        default={}, exclude_if=lambda benchmarks: not benchmarks
    )
    """Tasks and groups of lm-evaluation-harness whose documents are frozen. Where there are none, no manifest says."""


def main(config: Config, run: Run) -> None:
    """Write the sets, the benchmarks, `report.json` and `rejects.jsonl`."""
    needs.require(run.params_file)
    known = benchmarks.find(config.benchmarks, run.params_file)
    ledger = Ledger(config.report_examples, config.scrub)
    media = Media(
        config.sets, config.pictures, config.videos, config.sounds, run.out / SPILL / "changed", run.params_file
    )
    tables = _read_sources(config, run, ledger)
    evaluation = EvaluationRows(config.decontamination.ngram, config.decontamination.overlap)
    for name, settings in config.benchmarks.items():
        run.progress.update(0, 1, f"freeze {name}")
        frozen = benchmarks.freeze(known[name], settings, run.out, run.params_file, config.seed, evaluation)
        ledger.benchmark(name, frozen)
    steps = len(tables) + len(config.sets)
    # Evaluation sets first: what is in them trains in no other.
    names = sorted(config.sets, key=lambda name: (not name.startswith("eval:"), name))
    mapped, groups = _with_media(config, run, names, tables, media, ledger)
    used: set[str] = set()
    for done, name in enumerate(names, len(tables)):
        run.progress.update(done, steps, name)
        items = mapped.pop(name) if name in mapped else _map_set(config, run.params_file, name, tables, media, ledger)
        for item in items:
            item.split = groups.get(item.group, item.split)
        near = config.near_duplicates if config.sets[name].near_duplicates else None
        items = unique(name, items, near, config.seed, ledger)
        if name.startswith("eval:"):
            files = evaluation_files(name, items, evaluation, ledger)
        else:
            files = training_files(name, items, evaluation, ledger)
        used |= _write(config, run, name, files, ledger)
    run.progress.update(steps, steps, "written")
    media.write(run.out, used, ledger)
    shutil.rmtree(run.out / SPILL, ignore_errors=True)
    write_jsonl(run.out / "rejects.jsonl", ledger.rejects())
    write_json(run.out / "report.json", ledger.report())
    log.info("%s", ledger.summary())


def _with_media(
    config: Config, run: Run, names: list[str], tables: dict[str, Table], media: Media, ledger: Ledger
) -> tuple[dict[str, list[Item]], dict[str, str]]:
    """Map the sets with media, all of them before any is split: one picture may tie rows of two sets together.

    Returns:
        The rows of these sets, and the sides of groups that media tie to others.
    """
    if not media.sets:
        return {}, {}
    mapped = {
        name: _map_set(config, run.params_file, name, tables, media, ledger) for name in names if name in media.sets
    }
    media.settle()

    def split(group: str, tested: bool) -> str:
        return clean.split_of(group, config.seed, config.split.validation, config.split.test if tested else 0)

    return mapped, splits.settle(mapped, config.sets, split, ledger)


def _read_sources(config: Config, run: Run, ledger: Ledger) -> dict[str, Table]:
    """Read the sources that the sets use, by name. Raises DataError for one that the recipe does not have."""
    names = sorted({rows.source for spec in config.sets.values() for rows in spec.rows})
    for name in names:
        if name not in config.sources:
            raise DataError(f"{run.params_file}: sets name the source '{name}'{suggest(name, config.sources)}")
    tables = {}
    for done, name in enumerate(names):
        run.progress.update(done, len(names) + len(config.sets), f"read {name}")
        tables[name] = read(
            name, config.sources[name], run.params_file.parent, spiller(config.sets, name, run.out / SPILL)
        )
        ledger.source(name, tables[name])
    return tables


def _map_set(
    config: Config, params: Path, name: str, tables: dict[str, Table], media: Media, ledger: Ledger
) -> list[Item]:
    """Map, clean and validate every row of a set; stop when too many are bad."""
    items = []
    kinds = Columns()
    for at, spec in enumerate(config.sets[name].rows):
        table = tables[spec.source]
        source_columns = {column for line in table.lines for column in line.row}
        if table.lines:
            check_map(f"{params}: sets.{name}.rows.{at}.map", name, spec.map, source_columns)
        watched = source_columns & HONOURED_ELSEWHERE - columns(spec.map) if kind_of(name) in TRAINED else set()
        words = {column: value for column, value in spec.map.items() if column not in MEDIA}
        unused_counts: Counter[str] = Counter()
        rejects = []
        for line in table.lines:
            try:
                rendered = clean.walk(render(words, line.row), config.scrub, ledger.scrubbed[name])
                row, group = validate(name, rendered), rendered.get("group")
                own = media.of(spec, line.row, table)
                row |= own.columns()
                kinds.add({c: v for c, v in row.items() if c not in TURNS}, f"{table.file}:{line.number}")
            except BadRow as e:
                used = {c: line.row.get(c) for c in sorted(columns(spec.map))}
                rejects.append(Reject(table.file, line.number, str(e), used))
                continue
            unused_counts.update(f"message key '{key}'" for key in unused(rendered))
            unused_counts.update(f"column '{c}'" for c in watched if line.row.get(c) not in (None, "", [], {}))
            item = Item(name, row, spec.source, at, table.file, line.number, pictures=own.pictures, sounds=own.sounds)
            if group is not None or not item.families:  # else its media are its group, once all are known
                group = str(first_prompt(row) if group is None else group)
                item.group = clean.same(group).casefold()
                item.split = _split(config, name, spec, group)
            items.append(item)
        ledger.mapped(name, spec.source, table, rejects, unused_counts)
        table.check(rejects, config.max_bad_share, params)
        if unused_counts:
            counts = ", ".join(f"{what} ({count} rows)" for what, count in sorted(unused_counts.items()))
            log.warning("%s: nothing in set '%s' looks at %s", table.file, name, counts)
    return items


def _split(config: Config, name: str, spec: Rows, group: str) -> str:
    if spec.split == "hash":
        return clean.split_of(group, config.seed, config.split.validation, config.split.test)
    return "test" if name.startswith("eval:") else clean.split_of(group, config.seed, config.split.validation, 0)


def _mix(config: Config, name: str, items: list[Item], ledger: Ledger) -> list[Item]:
    """Take each source's rows up to its limit, and mix them: by an order that depends on rows and seed alone."""
    left = [len(items) if rows.limit is None else rows.limit for rows in config.sets[name].rows]
    mixed = []
    for item in sorted(items, key=lambda item: item.order(config.seed)):
        left[item.entry] -= 1
        if left[item.entry] >= 0:
            mixed.append(item)
        else:
            ledger.drop(name, "over the limit", item)
    return mixed


def _write(config: Config, run: Run, name: str, files: dict[str, list[Item]], ledger: Ledger) -> set[str]:
    """Write a set's files, and return the names of the pictures and sounds in them."""
    used: set[str] = set()
    for file, items in files.items():
        mixed = _mix(config, name, items, ledger)
        if not mixed:
            why = [f"{count} {reason}" for reason, count in ledger.why(name).items()]
            why += [f"{len(others)} in {other}.jsonl" for other, others in files.items() if others]
            reasons = ", ".join(why) or "no row was read"
            raise DataError(
                f"{run.params_file}: set '{name}' has no row left for {file}.jsonl ({reasons}); "
                f"add rows, or change 'split' or what drops them"
            )
        rows = [row for item in mixed for row in item.written()]
        write_jsonl(run.out / f"{file}.jsonl", rows)
        ledger.kept(name, file, mixed, rows)
        used.update(name for item in mixed for name in item.files)
    return used


if __name__ == "__main__":
    stage(main, Config)
