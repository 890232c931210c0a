"""Questions that show passages, with what a model said to them: the rows that an evaluation of retrieval counts.

The rows come from `tasks/raft.py`, `eval/<task>.jsonl`. One of them, shortened:

    {"id": "…", "question": "Bexot lives in Olvar. [1]\\nTamok lives in Gipul. [2]\\nWhere does Bexot live?",
     "answer": "Olvar", "condition": "retrieved", "gold": [1], "lure": "Gipul", "asked": "Where does Bexot live?",
     "passages": ["9f0c…", "07aa…"], "document": "facts/people/0001.txt", "quote": "Bexot lives in Olvar."}

`gold` has the numbers of the passages shown that hold the answer, from 1. `lure` is the answer that an unfaithful
reader would give: what a planted instruction wants or a false copy tells; of a passage that contradicts the document,
what the document tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tasks.retrieval.passages import LURE
from tasks.retrieval.prompts import PromptFormat, Reply, parse
from tasks.stage.config import suggest
from tasks.stage.errors import ArtifactError

CONDITIONS = ("closed", "retrieved", "gold", "wrong", "removed", "planted", "contradicting", "poisoned")
"""What stands in place of the passages: none; those that the index finds; the one that holds the answer; others alone;
those found without the one that holds it; those found, with an instruction in one; one that says otherwise than the
document; those found, with a copy of the right one that says otherwise."""
COLUMNS: Mapping[str, type] = {
    "question": str, "answer": str, "condition": str, "asked": str, "document": str, "quote": str, "passages": list,
    "gold": list, "lure": str,
}  # fmt: skip
"""Columns that every row has, with their types."""
METRICS = ("exact_match", "f1", "followed")
"""Metrics that the task's grader gives: the right answer, the words in common with it, and the lure as the answer."""


HOLE = "\ufffc"
"""Stands for an instruction while its place is looked for; Unicode's OBJECT REPLACEMENT CHARACTER."""


class Planted(NamedTuple):
    """An instruction in a passage."""

    wording: str
    """Its text, with `{lure}` for the answer that it wants."""
    position: str
    """`before` or `after` the `right` passage, which holds the answer, or an `other` one."""


@dataclass(frozen=True)
class Answered:
    """One question with what a model said."""

    asked: str
    """The question alone, without passages: by it rows under several conditions are one question."""
    condition: str
    """One of `CONDITIONS`."""
    shown: tuple[str, ...]
    """Ids of the chunks that its passages were made from, in their order."""
    gold: frozenset[int]
    """Numbers of the passages that hold the answer, from 1."""
    planted: Planted | None
    """The instruction in one of its passages."""
    reply: Reply
    """The response, parsed."""
    scores: Mapping[str, float]
    """Metric to the score that the task's grader gave."""

    def facts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Say for a reader of the samples under which condition it was asked, and which passages it was shown.

        Args:
            texts: chunk id to its text.

        Returns:
            `condition`, `asked`, `abstained`, and of each passage `id`, `text` (the chunk's, which an attack may have
            changed in the prompt), `gold` and `cited`.
        """
        passages = [
            {"id": name, "text": texts[name], "gold": number in self.gold, "cited": number in self.reply.cited}
            for number, name in enumerate(self.shown, 1)
        ]
        facts = {"condition": self.condition, "asked": self.asked, "abstained": self.reply.abstained}
        return {**facts, "passages": passages}


def check(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Check rows before a model is asked.

    Args:
        rows: of one task.
        path: their file, for messages.

    Raises:
        ArtifactError: a column is missing or of another type, a condition is unknown, a gold passage is not shown, or
            a question stands twice under one condition.
    """
    asked: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, 1):
        where = f"{path}:{number}"
        for column, kind in COLUMNS.items():
            if not isinstance(row.get(column), kind):
                found = f"is {row[column]!r}" if column in row else f"is missing{suggest(column, row)}"
                raise ArtifactError(f"{where}: column '{column}' {found}; expected a {kind.__name__} (tasks/raft.py)")
        if row["condition"] not in CONDITIONS:
            raise ArtifactError(
                f"{where}: unknown condition '{row['condition']}'{suggest(row['condition'], CONDITIONS)}"
            )
        if not set(row["gold"]) <= set(range(1, len(row["passages"]) + 1)):
            raise ArtifactError(f"{where}: gold is {row['gold']}, and it shows {len(row['passages'])} passages")
        key = (row["condition"], row["asked"])
        if key in asked:
            raise ArtifactError(
                f"{where}: asks '{row['asked']}' under '{row['condition']}' as line {asked[key]} does; ask it once"
            )
        asked[key] = number


def read(
    rows: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
    form: PromptFormat,
    texts: Mapping[str, str],
) -> list[Answered]:
    """Join rows with what a model said to them.

    Args:
        rows: as `check` takes them.
        samples: `response` and `scores` of each, in the order of the rows.
        form: of the prompts, by which a response is read.
        texts: chunk id to its text.
    """
    return [
        Answered(
            asked=row["asked"],
            condition=row["condition"],
            shown=tuple(row["passages"]),
            gold=frozenset(row["gold"]),
            planted=planted(row, form, texts) if row["condition"] == "planted" else None,
            reply=parse(sample["response"], form),
            scores=sample["scores"],
        )
        for row, sample in zip(rows, samples, strict=True)
    ]


def planted(row: Mapping[str, Any], form: PromptFormat, texts: Mapping[str, str]) -> Planted | None:
    """Find the instruction that was planted in a row's passages: what its question has and its chunks have not.

    Args:
        row: of the condition `planted`.
        form: of the prompts.
        texts: chunk id to its text.

    Returns:
        None where the question is not its passages with one text before or after one of them.
    """
    passages = [texts[name] for name in row["passages"]]
    for number, text in enumerate(passages, 1):
        for place, put in (("before", f"{HOLE} {text}"), ("after", f"{text} {HOLE}")):
            changed = [*passages[: number - 1], put, *passages[number:]]
            head, _, tail = form.render(row["asked"], changed).partition(HOLE)
            said = row["question"].removeprefix(head).removesuffix(tail)
            if said and f"{head}{said}{tail}" == row["question"]:
                where = "right" if number in row["gold"] else "other"
                return Planted(said.replace(row["lure"], LURE), f"{place} the {where} passage")
    return None
