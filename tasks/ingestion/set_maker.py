"""The sets of a recipe, one after the other: mapped by several processes, chosen from, and written."""

import logging
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tasks.ingestion import cleaning as clean
from tasks.ingestion import minhash, set_files, splits
from tasks.ingestion.evaluation_rows import EvaluationRows, group_key
from tasks.ingestion.facts import Described, Mapped, map_chunk, write_facts
from tasks.ingestion.ledger import Item, Ledger
from tasks.ingestion.lines import Reject
from tasks.ingestion.mapper import Entry, Mapper
from tasks.ingestion.mapping import HONOURED_ELSEWHERE, TRAINED, check_map, columns, kind_of
from tasks.ingestion.media import Media
from tasks.ingestion.selection import Selection
from tasks.ingestion.settings import NearDuplicates, Set, Shards, Split
from tasks.ingestion.spool import SpooledTable
from tasks.ingestion.values import BadRow, Columns
from tasks.ingestion.workers import Workers
from tasks.stage.data_folder import set_folder
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run
from tasks.stage.ray_cluster import Tasks

log = logging.getLogger("polm")
SPILL = "spill"
"""Folder of what does not stay in memory while the artifact is made: rows, facts, and bytes out of rows."""


class Settings(Protocol):
    """What the sets depend on: the recipe's data.yaml."""

    seed: int
    split: Split
    scrub: list[clean.Kind]
    near_duplicates: NearDuplicates
    max_bad_share: float
    sets: dict[str, Set]
    shards: Shards | None


class SetMaker:
    """Makes the sets of a recipe out of its sources."""

    def __init__(
        self,
        config: Settings,
        run: Run,
        tables: Mapping[str, SpooledTable],
        workers: Workers | Tasks,
        ledger: Ledger,
        media: Media,
    ) -> None:
        """Begin.

        Args:
            config: the recipe's data.yaml.
            run: the stage's run.
            tables: the sources, by name.
            workers: the processes that map rows.
            ledger: told of every row.
            media: the pictures and sounds of the sets.
        """
        self._config = config
        self._run = run
        self._tables = tables
        self._workers = workers
        self._ledger = ledger
        self._media = media
        self._with_media: dict[str, list[Item]] = {}
        self._sides: dict[bytes, str] = {}
        self._kinds = Columns()

    def map_media(self, names: list[str]) -> None:
        """Map the sets with media, all of them before any is split: one picture may tie rows of two sets together.

        Their rows are held in memory, without the pictures and sounds; this process alone maps them.
        """
        if not self._media.sets:
            return
        for name in names:
            if name in self._media.sets:
                self._kinds = Columns()
                self._with_media[name] = [item for entry in self._entries(name) for item in self._looked_at(entry)]
        self._media.settle()

        def split(group: str, tested: bool) -> str:
            shares = self._config.split
            return clean.split_of(group, self._config.seed, shares.validation, shares.test if tested else 0)

        sides = splits.settle(self._with_media, self._config.sets, split, self._ledger)
        self._sides = {group_key(group): side for group, side in sides.items()}

    def make(self, name: str, evaluation: EvaluationRows) -> set[str]:
        """Write the files of one set.

        Args:
            name: the set.
            evaluation: the rows that may not be trained on; an evaluation set adds its own.

        Returns:
            Names of the pictures and sounds in them.

        Raises:
            DataError: too many rows are bad, or none is left.
            PolmError: a process was killed.
        """
        tested = name.startswith("eval:")
        folder = self._run.out / SPILL / "facts" / name.replace(":", "-")
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
        folder.mkdir(parents=True)
        spec = self._config.sets[name]
        near = self._config.near_duplicates if spec.near_duplicates else None
        bands = minhash.bands_of(near.threshold, near.permutations) if near else (0, 0)
        described = Described(self._config.seed, near, bands, None if tested else evaluation, self._sides)
        with self._timed("map"):
            files = self._facts(name, described, folder)
        sources = [self._tables[rows.source].file for rows in spec.rows]
        with Selection(name, spec.rows, sources, files, folder, self._ledger) as selection:
            with self._timed("exact_duplicates"):
                selection.drop_repeats()
            with self._timed("near_duplicates"):
                if near is not None:
                    selection.drop_near(near)
            with self._timed("write"):
                if tested:
                    selection.drop_sides("in the training splits", ("train", "validation"))
                    self._ledger.protected[name] = set_files.protect(name, selection, evaluation)
                    paths = {"test": f"eval/{name.removeprefix('eval:')}"}
                else:
                    selection.drop_contaminated()
                    selection.drop_sides("in the test split", ("test",))
                    paths = {split: f"{set_folder(name)}/{split}" for split in ("train", "validation")}
                used = self._write(name, selection, paths)
        shutil.rmtree(folder)
        return used

    def _timed(self, step: str) -> Any:
        return set_files.added_up(self._run, f"{step}_seconds")

    def _entries(self, name: str) -> Iterator[Entry]:
        """Yield the entries of a set, their maps checked. Raises DataError."""
        config = self._config
        for at, spec in enumerate(config.sets[name].rows):
            table = self._tables[spec.source]
            known = table.read.columns
            if table.count:
                check_map(f"{self._run.params_file}: sets.{name}.rows.{at}.map", name, spec.map, known)
            watched = known & HONOURED_ELSEWHERE - columns(spec.map) if kind_of(name) in TRAINED else set()
            yield Entry(name, at, spec, table.file, frozenset(watched), tuple(config.scrub), config.seed, config.split)

    def _looked_at(self, entry: Entry) -> list[Item]:
        """Map the rows of an entry of a set with media."""
        table = self._tables[entry.rows.source]
        mapper = Mapper(entry, self._kinds, lambda row: self._media.of(entry.rows, row, table.media))
        items = list(mapper.items(table.lines()))
        self._account(entry, mapper.rejects, mapper.scrubbed, mapper.unused)
        return items

    def _facts(self, name: str, described: Described, folder: Path) -> list[Path]:
        """Write the facts of every row of a set, and list their files in order."""
        if name in self._with_media:
            write_facts(self._with_media.pop(name), described, 0, folder / "0")
            return [folder / "0"]
        handed: Described | Path = described
        if self._workers.several:  # read once by each process, and not sent with every chunk
            handed = folder / "described"
            with handed.open("wb") as f:
                pickle.dump(described, f)
        self._kinds = Columns()
        files: list[Path] = []
        for entry in self._entries(name):
            self._map(entry, handed, files, folder)
        if not files:
            write_facts([], described, 0, folder / "0")
            files = [folder / "0"]
        return files

    def _map(self, entry: Entry, described: Described | Path, files: list[Path], folder: Path) -> None:
        """Map the rows of an entry; stop when too many are bad."""
        chunks = self._tables[entry.rows.source].read.chunks
        tasks = [(entry, described, chunk, n, folder / f"{n}") for n, chunk in enumerate(chunks, len(files))]
        rejects: list[Reject] = []
        scrubbed: Counter[str] = Counter()
        unused: Counter[str] = Counter()
        for task, mapped in zip(tasks, self._workers.each(map_chunk, tasks), strict=True):
            mapped = self._joined(mapped, partial(map_chunk, *task))
            rejects += mapped.rejects
            scrubbed += mapped.scrubbed
            unused += mapped.unused
        files += [task[-1] for task in tasks]
        self._account(entry, rejects, scrubbed, unused)

    def _joined(self, mapped: Mapped, again: Callable[[Columns], Mapped]) -> Mapped:
        """Hold the columns of a chunk against those before it; where they differ in kind, map it anew, row by row.

        Which row of two that differ is the bad one depends on all rows before, which no process but this one knows.
        """
        if not mapped.of_another_kind:
            try:
                self._kinds.join(mapped.kinds)
            except BadRow:
                return again(self._kinds)
            return mapped
        return again(self._kinds)

    def _account(self, entry: Entry, rejects: list[Reject], scrubbed: Counter[str], unused: Counter[str]) -> None:
        """Tell the ledger, and a person, of what was mapped. Raises DataError when too much of it is bad."""
        table = self._tables[entry.rows.source]
        self._ledger.scrubbed[entry.set] += scrubbed
        self._ledger.mapped(entry.set, entry.rows.source, table.count, rejects, unused)
        table.check(rejects, self._config.max_bad_share, self._run.params_file)
        if unused:
            counts = ", ".join(f"{what} ({count} rows)" for what, count in sorted(unused.items()))
            log.warning("%s: nothing in set '%s' looks at %s", table.file, entry.set, counts)

    def _write(self, name: str, selection: Selection, paths: Mapping[str, str]) -> set[str]:
        """Write the files of a set: side of the split to path. Returns the pictures and sounds in them."""
        there = {split: sum(rows for rows, _, _ in selection.counts(split).values()) for split in paths}
        used: set[str] = set()
        for split, path in paths.items():
            selection.drop_over_limits(split)
            if not there[split]:
                why = [f"{count} {reason}" for reason, count in self._ledger.why(name).items()]
                why += [f"{count} in {paths[other]}.jsonl" for other, count in there.items() if count]
                reasons = ", ".join(why) or "no row was read"
                raise DataError(
                    f"{self._run.params_file}: set '{name}' has no row left for {path}.jsonl ({reasons}); "
                    f"add rows, or change 'split' or what drops them"
                )
            used |= set_files.write(
                name, selection, split, self._run.out, path, self._config.shards, self._kinds, self._ledger
            )
        return used
