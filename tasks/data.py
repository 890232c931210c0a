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
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from tasks.ingestion import benchmarks
from tasks.ingestion import cleaning as clean
from tasks.ingestion.benchmarks import Benchmark
from tasks.ingestion.evaluation_rows import EvaluationRows
from tasks.ingestion.ledger import Ledger
from tasks.ingestion.media import Media
from tasks.ingestion.media_columns import spiller
from tasks.ingestion.parts import divide, spool_part
from tasks.ingestion.pictures import PictureSettings
from tasks.ingestion.set_maker import SPILL, SetMaker
from tasks.ingestion.settings import SETS, Decontamination, NearDuplicates, Set, Shards, Split
from tasks.ingestion.sounds import SoundSettings
from tasks.ingestion.sources import Source, identified, stream
from tasks.ingestion.spool import Spooled, SpooledTable, spool
from tasks.ingestion.videos import VideoSettings
from tasks.ingestion.workers import Workers
from tasks.stage import needs, ray_cluster
from tasks.stage.artifact import write_json, write_jsonl
from tasks.stage.config import StageConfig, suggest
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage

log = logging.getLogger("polm")
NAMES = r"^[\w.-]+$"
"""Regular expression of a benchmark's name."""
DECIDING = ("numpy", "pyarrow", "datasketch", "rensa")
"""Packages whose versions may decide the bytes of what is read and mapped."""


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
    processes: int = Field(default=1, gt=0, exclude=True)
    """Processes that read and map rows. They change no byte of what comes out, so no manifest names them."""
    ray: str | None = Field(default=None, min_length=1, exclude=True)
    """Address of a Ray cluster whose nodes read and map rows in the place of `processes`; `auto` is this machine's."""
    shards: Shards | None = Field(default=None, exclude_if=lambda shards: shards is None)
    """Parquet files for large sets. Where it is not given, every set is JSONL, and no manifest names it."""
    benchmarks: dict[Annotated[str, StringConstraints(pattern=NAMES)], Benchmark] = Field(
        default={}, exclude_if=lambda benchmarks: not benchmarks
    )
    """Tasks and groups of lm-evaluation-harness whose documents are frozen. Where there are none, no manifest says."""

    @model_validator(mode="after")
    def _one_engine(self) -> Self:
        if self.ray is not None and self.processes != 1:
            raise ValueError("'ray' and 'processes' both say what maps the rows; leave one out")
        return self


def main(config: Config, run: Run) -> None:
    """Write the sets, the benchmarks, `report.json` and `rejects.jsonl`."""
    needs.require(run.params_file)
    known = benchmarks.find(config.benchmarks, run.params_file)
    ledger = Ledger(config.report_examples, config.scrub)
    media = Media(
        config.sets, config.pictures, config.videos, config.sounds, run.out / SPILL / "changed", run.params_file
    )
    with _workers(config, run) as workers:
        with run.timed("read"):
            tables = _read_sources(config, run, workers, ledger)
        evaluation = EvaluationRows(config.decontamination.ngram, config.decontamination.overlap)
        for name, settings in config.benchmarks.items():
            run.progress.update(0, 1, f"freeze {name}")
            frozen = benchmarks.freeze(known[name], settings, run.out, run.params_file, config.seed, evaluation)
            ledger.benchmark(name, frozen)
        steps = len(tables) + len(config.sets)
        # Evaluation sets first: what is in them trains in no other.
        names = sorted(config.sets, key=lambda name: (not name.startswith("eval:"), name))
        maker = SetMaker(config, run, tables, workers, ledger, media)
        maker.map_media(names)
        used: set[str] = set()
        for done, name in enumerate(names, len(tables)):
            run.progress.update(done, steps, name)
            used |= maker.make(name, evaluation)
    run.progress.update(steps, steps, "written")
    media.write(run.out, used, ledger)
    shutil.rmtree(run.out / SPILL, ignore_errors=True)
    write_jsonl(run.out / "rejects.jsonl", ledger.rejects())
    write_json(run.out / "report.json", ledger.report())
    log.info("%s", ledger.summary())


def _workers(config: Config, run: Run) -> Workers | ray_cluster.Tasks:
    """Return what reads and maps the rows."""
    if config.ray is None:
        return Workers(config.processes)
    return ray_cluster.Tasks(config.ray, run.out, DECIDING, f"'ray' in {run.params_file}")


def _read_sources(
    config: Config, run: Run, workers: Workers | ray_cluster.Tasks, ledger: Ledger
) -> dict[str, SpooledTable]:
    """Read the sources that the sets use, by name. Raises DataError for one that the recipe does not have."""
    names = sorted({rows.source for spec in config.sets.values() for rows in spec.rows})
    for name in names:
        if name not in config.sources:
            raise DataError(f"{run.params_file}: sets name the source '{name}'{suggest(name, config.sources)}")
    tables = {}
    for done, name in enumerate(names):
        run.progress.update(done, len(names) + len(config.sets), f"read {name}")
        begun = stream(name, config.sources[name], run.params_file.parent)
        keep = spiller(config.sets, name, run.out / SPILL)
        stem = run.out / SPILL / "rows" / f"{done}"
        if begun.path is None:
            spooled = spool(begun.rows, stem, keep)
        else:
            spooled = Spooled()
            parts = divide(begun.path, begun.file)
            tasks = ((part, stem.with_name(f"{stem.name}-{i}"), keep) for i, part in enumerate(parts))
            for part in workers.each(spool_part, tasks):
                spooled.add(part)
        rows = sum(chunk.rows for chunk in spooled.chunks) + len(spooled.rejects)
        tables[name] = SpooledTable(
            begun.file, spooled, begun.media, identified(name, config.sources[name], begun, rows)
        )
        ledger.source(name, tables[name])
    return tables


if __name__ == "__main__":
    stage(main, Config)
