"""The data report: what was read, what became of it, what was dropped and why."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tasks.ingestion.cleaning import Kind, same, walk
from tasks.ingestion.lines import Reject
from tasks.ingestion.mapping import kind_of, parts
from tasks.ingestion.pictures import Picture
from tasks.ingestion.sounds import Sound
from tasks.ingestion.spool import SpooledTable
from tasks.ingestion.turns import pieces, unlearnt
from tasks.ingestion.values import printable

SHOWN = 200
"""Characters of a dropped row that the report repeats."""


@dataclass
class Item:
    """One valid row on its way into a set."""

    set: str
    row: dict[str, Any]
    source: str
    entry: int
    """Which of the set's `rows` it comes through, from 0."""
    file: str
    line: int
    group: str = ""
    """What it may not be parted from, in lower case and single spaces."""
    split: str = ""
    """`train`, `validation` or `test`."""
    pictures: tuple[Picture, ...] = ()
    """The row's pictures, in order."""
    sounds: tuple[Sound, ...] = ()
    """The row's sounds, in order."""

    @cached_property
    def key(self) -> str:
        """Return the text of a row, white space aside, its pictures and sounds, and which turns have weight 0.

        Evaluation rows and prompts count by the question alone: a second answer is no row.
        """
        row = self.row
        if kind_of(self.set) in ("eval", "prompts"):
            row = {k: v for k, v in row.items() if k in ("question", "prompt")}
        off = unlearnt(row)
        media = [f"picture {picture.pixels}" for picture in self.pictures]
        media += [f"sound {sound.samples}" for sound in self.sounds]
        return "\n".join([*(same(text) for text in parts(row)), *media, *([f"weight 0: {off}"] if off else [])])

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the row's pictures or sounds in the archive."""
        return (*(picture.name for picture in self.pictures), *(sound.name for sound in self.sounds))

    @property
    def families(self) -> tuple[str, ...]:
        """Families of the row's pictures, or of its sounds."""
        return (*(picture.family for picture in self.pictures), *(sound.family for sound in self.sounds))

    @property
    def ties(self) -> tuple[str, ...]:
        """Families that bind rows to one side of the split: a black frame is in every film, and binds nothing."""
        binding = [picture.family for picture in self.pictures if not picture.flat]
        return (*binding, *(sound.family for sound in self.sounds))

    @cached_property
    def id(self) -> str:
        """16 hex digits of the SHA-256 of set and text: equal exactly for duplicates."""
        return hashlib.sha256(f"{self.set}\n{self.key}".encode()).hexdigest()[:16]

    def order(self, seed: int) -> str:
        """Return a sort key that shuffles."""
        return hashlib.sha256(f"{seed}:{self.id}".encode()).hexdigest()

    def written(self) -> list[dict[str, Any]]:
        """Write the row as it stands in the file: several where turns of weight 0 part it, with ids of their own."""
        made = pieces(self.row)
        ids = [self.id, *(hashlib.sha256(f"{self.id}\n{i}".encode()).hexdigest()[:16] for i in range(1, len(made)))]
        return [{"id": id_, **row, "source": self.source} for id_, row in zip(ids, made, strict=True)]


class Ledger:
    """Counts every row from its source to its file or to the reason why it is in none."""

    def __init__(self, examples: int, scrub: Iterable[Kind]) -> None:
        """Args: examples: rows shown for each reason; scrub: kinds to scrub from rows that are shown."""
        self.examples = examples
        """How many rows are shown for each reason."""
        self._scrub = list(scrub)
        self._sources: dict[str, Any] = {}
        self._rejects: list[dict[str, Any]] = []
        self._sets: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        self._dropped: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        self._files: dict[str, dict[str, Any]] = defaultdict(dict)
        self._contaminated: list[dict[str, Any]] = []
        self._ignored: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        self._unlearnt: Counter[str] = Counter()
        self.scrubbed: dict[str, Counter[str]] = defaultdict(Counter)
        """Set to kind to how many were replaced."""
        self.pictures: dict[str, Any] = {}
        """How many pictures there are, how large, and what had to be changed; empty where no set has pictures."""
        self.sounds: dict[str, Any] = {}
        """How many sounds there are, how long, and what had to be changed; empty where no set has sounds."""
        self.benchmarks: dict[str, Any] = {}
        """Benchmark to what was frozen of it: tasks, documents, data sets; empty where the recipe has none."""
        self.protected: dict[str, int] = {}
        """Evaluation set to how many held-out rows training rows were compared with (over the limit or not)."""

    def source(self, name: str, table: SpooledTable) -> None:
        """Record what a source was, and its unreadable lines."""
        self._sources[name] = {**table.origin, "read": table.count, "unreadable": len(table.read.rejects)}
        self._reject(None, name, table.read.rejects)

    def benchmark(self, name: str, frozen: dict[str, Any]) -> None:
        """Record what was frozen of a published benchmark: `benchmark.json`, without the columns' types."""
        self.benchmarks[name] = frozen
        self.protected[f"benchmark:{name}"] = sum(task["documents"] for task in frozen["tasks"].values())

    def mapped(self, set_name: str, source: str, read: int, rejects: list[Reject], ignored: Counter[str]) -> None:
        """Record how many rows of a source a set began with, which were bad, and what of the others was not used."""
        if ignored:
            self._ignored[set_name][source].update(ignored)
        self._sets[set_name][source].update({"read": read, "rejected": len(rejects)})
        self._reject(set_name, source, rejects)

    def drop(self, set_name: str, reason: str, item: Item, like: str | None = None) -> None:
        """Record one dropped row, and the row `like` it (`file:line`) if that is why."""
        self._sets[set_name][item.source][reason] += 1
        examples = self._dropped[set_name][reason]
        if len(examples) < self.examples:
            example = {"file": item.file, "line": item.line, "text": " | ".join(parts(item.row))[:SHOWN]}
            examples.append(example if like is None else {**example, "like": like})

    def drop_many(self, set_name: str, reason: str, items: list[Item]) -> None:
        """Record rows dropped for one reason."""
        for item in items:
            self.drop(set_name, reason, item)

    def dropped(
        self, set_name: str, reason: str, counts: Mapping[str, int], examples: Sequence[dict[str, Any]]
    ) -> None:
        """Record rows dropped for one reason: source to how many, and the first of them as the report shows them."""
        for source, count in counts.items():
            self._sets[set_name][source][reason] += count
        shown = self._dropped[set_name][reason]
        shown += examples[: self.examples - len(shown)]

    def contaminate(self, set_name: str, place: Mapping[str, Any], text: str, evaluation: str, overlap: float) -> None:
        """Record a training row that held an evaluation row.

        Args:
            set_name: its set.
            place: its `source`, `file` and `line`.
            text: its beginning.
            evaluation: the evaluation row, `set#id`.
            overlap: share of it, 0 to 1.
        """
        example = {"file": place["file"], "line": place["line"], "text": text, "like": evaluation}
        self.dropped(set_name, "contaminated", {place["source"]: 1}, [example])
        where = {"set": set_name, **place}
        self._contaminated.append({**where, "evaluation": evaluation, "overlap": overlap, "text": text})

    def kept(
        self, set_name: str, file: str, counts: Mapping[str, tuple[int, int]], characters: Any, tokens: Any
    ) -> None:
        """Record what a file holds.

        Args:
            set_name: its set.
            file: its name, with the suffix.
            counts: source to how many of its rows are in it, and turns of weight 0 of these.
            characters: of each row as it is written, whole numbers.
            tokens: of each row as it is written, words and signs, whole numbers.
        """
        for source, (rows, turns) in counts.items():
            self._sets[set_name][source]["kept"] += rows
            self._unlearnt[set_name] += turns
        self._files[set_name][file] = {
            "rows": len(characters),
            "characters": histogram(characters),
            "tokens": histogram(tokens),
        }

    def why(self, set_name: str) -> dict[str, int]:
        """Count the rows of a set that were dropped, by reason."""
        total: Counter[str] = sum(self._sets[set_name].values(), Counter())
        return {reason: n for reason, n in total.items() if reason not in ("read", "kept")}

    def rejects(self) -> list[dict[str, Any]]:
        """Return the rows of `rejects.jsonl`."""
        return self._rejects

    def report(self) -> dict[str, Any]:
        """Make what `report.json` holds."""
        sets = {
            name: {
                "sources": {source: dict(counts) for source, counts in self._sets[name].items()},
                "licences": sorted({self._sources[source]["licence"] for source in self._sets[name]}),
                "files": self._files[name],
                "scrubbed": dict(self.scrubbed[name]),
                "dropped": {
                    reason: {"count": count, "examples": self._dropped[name][reason]}
                    for reason, count in self.why(name).items()
                    if count
                },
                **self._exceptional(name),
            }
            for name in sorted(self._sets)
        }
        return {
            "sources": self._sources,
            "sets": sets,
            "protected": self.protected,
            "contaminated": self._contaminated,
            "rejects": len(self._rejects),
            **({"pictures": self.pictures} if self.pictures else {}),
            **({"sounds": self.sounds} if self.sounds else {}),
            **({"benchmarks": self.benchmarks} if self.benchmarks else {}),
        }

    def _exceptional(self, name: str) -> dict[str, Any]:
        """List what most sets have nothing of: turns of weight 0, and keys and columns that were not used."""
        ignored = {source: dict(sorted(counts.items())) for source, counts in self._ignored[name].items()}
        exceptions = {"ignored": ignored, "turns_of_weight_0": self._unlearnt[name]}
        return {key: value for key, value in exceptions.items() if value}

    def summary(self) -> str:
        """Sum up the files in one line for a person."""
        rows = ", ".join(
            f"{file.removesuffix('.jsonl').removesuffix('/')} {facts['rows']}"
            for name in sorted(self._files)
            for file, facts in self._files[name].items()
        )
        documents = {
            name: sum(task["documents"] for task in b["tasks"].values()) for name, b in self.benchmarks.items()
        }
        rows = ", ".join(filter(None, [rows, *(f"{name} {count}" for name, count in documents.items())]))
        return f"{rows}; {len(self._rejects)} rejected, {len(self._contaminated)} contaminated"

    def _reject(self, set_name: str | None, source: str, rejects: list[Reject]) -> None:
        for r in rejects:
            row = walk(printable(r.row), self._scrub, Counter())
            self._rejects.append({"file": r.file, "line": r.line, "reason": r.reason, "set": set_name, "row": row})
            if set_name is None:
                continue
            examples = self._dropped[set_name]["rejected"]
            if len(examples) < self.examples:
                examples.append({"file": r.file, "line": r.line, "text": f"{r.reason}: {row}"[:SHOWN]})


def histogram(lengths: Sequence[int]) -> dict[str, Any]:
    """Count whole numbers in bins that double: `bins` [upper bound, count], and `mean`, `median`, `p95`, `largest`."""
    import numpy as np

    ordered = np.sort(np.asarray(lengths, dtype=np.int64))  # of a large set a list would take ten times the memory
    counts: Counter[int] = Counter()
    for n, count in zip(*(found.tolist() for found in np.unique(ordered, return_counts=True)), strict=True):
        counts[1 << max(0, n - 1).bit_length()] += count
    return {
        "bins": [[upper, counts[upper]] for upper in sorted(counts)],
        "mean": round(int(ordered.sum()) / len(ordered), 2),
        "median": int(ordered[len(ordered) // 2]),
        "p95": int(ordered[int(len(ordered) * 0.95)]),
        "largest": int(ordered[-1]),
    }
