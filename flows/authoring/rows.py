"""Which rows of which source go to which set, how long they are in tokens, and what they can be asked about."""

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.authoring.graph import GRADED, NEEDED, ROWS, Planned
from flows.authoring.model import Model
from tasks.ingestion.recognition.formats import Format, mapped
from tasks.ingestion.recognition.sample import Sample
from tasks.ingestion.values import BadRow
from tasks.models.chat_template import templated
from tasks.stage.errors import ConfigError

MEASURED = 300
"""Rows of a source whose tokens are counted."""
SHORT = 60
"""Characters up to which nine of ten answers are short, so that they can be right or wrong as a whole."""
ENOUGH = 45
"""Rows that each evaluation task should ask: so many are hardly ever fewer than 30 by the chances of the split."""
TEXTS = (
    "Texts without a question are learnt by a base model that is trained from scratch alone (`source: {scratch: …}` of "
    "base.yaml and a set `pretrain`, as in params/tiny); to answer by them, give them as documents to `--methods rag`"
)
"""What is said of rows of texts."""
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")


@dataclass(frozen=True)
class Source:
    """One source: its rows, their format, and its name in data.yaml."""

    key: str
    sample: Sample
    format: Format
    answers: list[str]
    """Answers of the sample's evaluation rows."""
    copies: int = 0
    """Rows of the sample that become the same row as one before them."""

    @property
    def usable(self) -> int:
        """Rows that the data stage will keep, about: by the share of those looked at that are good and no copies."""
        rows = len(self.sample.rows)
        return round(self.sample.total * max(0.0, self.format.sure - self.copies / rows))

    @property
    def short(self) -> bool:
        """Whether its answers are so short that they are right or wrong as a whole."""
        lengths = sorted(len(answer) for answer in self.answers)
        rows = "prompts" in self.format.maps and bool(lengths)
        return rows and lengths[int(0.9 * (len(lengths) - 1))] <= SHORT and not any("\n" in a for a in self.answers)

    @property
    def numeric(self) -> bool:
        """Whether every answer is a number."""
        return self.short and all(_NUMBER.fullmatch(answer.strip()) for answer in self.answers)


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows of a set, by the model's own template and tokenizer."""

    rows: int
    """Rows that train, about."""
    whole: list[int]
    """Tokens of rows of the sample, in ascending order."""
    prompts: list[int]
    """Tokens of what stands before the reply, in the same rows' order of size."""
    replies: list[int]
    """Tokens of the replies, in ascending order."""

    def share(self, sizes: Sequence[int], limit: int) -> float:
        """Share of rows, 0 to 1, that have more tokens than a limit."""
        return sum(size > limit for size in sizes) / len(sizes)


@dataclass(frozen=True)
class Plan:
    """The sets of a recipe, and the tasks that ask about held-out rows."""

    sets: dict[str, list[tuple[Source, list[dict[str, Any]]]]]
    """Set to its sources and their maps."""
    tasks: dict[str, list[Source]]
    """Evaluation task, `answers`, `replies` or `pairs`, to its sources."""
    lengths: dict[str, Lengths]
    """Set to the tokens of its rows."""
    validation: float
    test: float
    """Shares of the groups, 0 to 1."""
    notices: list[str] = field(default_factory=list)

    def held_out(self, task: str) -> int:
        """Count the rows that a task will have to ask, about: near duplicates are not yet known."""
        return round(self.test * sum(source.usable for source in self.tasks[task]))


def source(key: str, sample: Sample, found: Format) -> Source:
    """Describe a source whose format was recognised."""
    answers = []
    for template in found.maps.get("eval", [])[:1]:
        for row in sample.rows:
            try:
                answers.append(str(mapped("eval:task", template, row)["answer"]))
            except BadRow:
                continue
    return Source(key, sample, found, answers, _copies(sample, found))


def _copies(sample: Sample, found: Format) -> int:
    """Count the rows that become the same row of a set as one before them."""
    kind, (template, *_) = next(iter(found.maps.items()))
    made: Counter[str] = Counter()
    for row in sample.rows:
        with contextlib.suppress(BadRow):
            made[json.dumps(mapped(kind, template, row), sort_keys=True, default=str)] += 1
    return made.total() - len(made)


def key_of(where: str, taken: Sequence[str]) -> str:
    """Make a source's name of its path or id: `data/tickets.jsonl.gz` is `tickets`."""
    stem = Path(where.partition(":")[0]).name.partition(".")[0]
    word = re.sub(r"\W+", "_", stem).strip("_").lower() or "rows"
    return word if word not in taken else f"{word}_{sum(name.startswith(word) for name in taken) + 1}"


def plan(sources: Sequence[Source], models: Sequence[Planned], model: Model) -> Plan:
    """Share the sources out to the sets that the methods need.

    Raises:
        ConfigError: a method for which no source has rows; it is named with what it needs.
        DataError: the model's chat template refuses a row.
    """
    sets: dict[str, list[tuple[Source, list[dict[str, Any]]]]] = {}
    for planned in models:
        kind = ROWS[planned.method]
        if kind not in sets:
            sets[kind] = _taken(kind, sources)
        if not sets[kind]:
            have = ", ".join(f"{s.sample.name} ({s.format.name})" for s in sources)
            alone = f". {TEXTS}" if any("pretrain" in s.format.maps for s in sources) else ""
            raise ConfigError(f"--methods: {planned.name} needs {NEEDED[kind]}; the data given are {have}{alone}")
        if planned.method in GRADED:
            sets.setdefault("prompts", _taken("prompts", sources))
            if not sets["prompts"]:
                raise ConfigError(
                    f"--methods: {planned.name} is measured by {NEEDED['prompts']}; no data given have any"
                )
    used = [s for s in sources if any(s is other for entries in sets.values() for other, _ in entries)]
    notices = [f"{s.sample.name}: no method of this recipe learns from its rows" for s in sources if s not in used]
    tasks: dict[str, list[Source]] = {}
    for s in used:
        maps = s.format.maps.get("eval", [])
        if maps:
            tasks.setdefault("pairs" if "worse" in maps[0] else "answers" if s.short else "replies", []).append(s)
    fewest = max(1, min(s.usable for s in used))
    asked = min((max(1, sum(s.usable for s in sources)) for sources in tasks.values()), default=fewest)
    validation, test = share(0.05, 8 / fewest, 0.15), share(0.1, ENOUGH / asked, 0.25)
    lengths = {kind: _lengths(kind, entries, model, 1 - validation - test) for kind, entries in sets.items()}
    return Plan(sets, tasks, lengths, validation, test, notices)


def share(usual: float, enough: float, most: float) -> float:
    """Choose a share of the rows: the usual one, or what is enough where there are few rows, up to the most."""
    return min(most, math.ceil(100 * max(usual, enough)) / 100)


def _taken(kind: str, sources: Sequence[Source]) -> list[tuple[Source, list[dict[str, Any]]]]:
    """Choose the sources of a set: those whose format is there for it, and else those that can be turned into it."""
    able = [s for s in sources if kind in s.format.maps and s.format.media is None]
    if kind == "prompts":
        able = [s for s in able if s.short]
    own = [s for s in able if next(iter(s.format.maps)) == kind]
    return [(s, s.format.maps[kind]) for s in own or able]


def _lengths(
    kind: str, entries: Sequence[tuple[Source, list[dict[str, Any]]]], model: Model, training: float
) -> Lengths:
    whole, prompts, replies = [], [], []
    for s, maps in entries:
        for row in s.sample.rows[:MEASURED]:
            try:
                made = mapped(kind, maps[0], row)
            except BadRow:
                continue
            before, after = _parts(made)
            opening = tokens(model, before, prompt=True)
            sizes = [tokens(model, [*before, *reply], prompt=False) for reply in after] or [opening]
            whole.append(max(sizes))
            prompts.append(opening)
            replies.append(max(sizes) - opening)
    rows = sum(round(s.usable * len(maps) * training) for s, maps in entries)
    return Lengths(max(1, rows), sorted(whole), sorted(prompts), sorted(replies))


def _parts(row: dict[str, Any]) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Part a row into what stands before the reply and the replies."""
    if "messages" in row:
        return row["messages"][:-1], [row["messages"][-1:]]
    return row["prompt"], [row[key] for key in ("completion", "chosen", "rejected") if key in row]


def tokens(model: Model, turns: list[dict[str, Any]], *, prompt: bool) -> int:
    """Count the tokens of turns; with `prompt`, those that ask for an answer to them are among them."""
    text = templated(model.tokenizer, turns, tokenize=False, add_generation_prompt=prompt)
    return len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
