"""Questions that show passages, with what a model said to them: the rows that an evaluation of retrieval counts.

The rows come from `tasks/raft.py`, `eval/<task>.jsonl`. One of them, without the columns that lm-eval's task reads:

    {"id": "…", "question": "[1] Ada Pell was born in Fallmouth.\\n[2] …\\nWhere was Ada Pell born?",
     "answer": "Fallmouth", "condition": "retrieved", "query": "Where was Ada Pell born?",
     "document": "people/0001.txt", "quote": "Ada Pell was born in Fallmouth.", "passages": ["9f0c…", "07aa…"],
     "gold": [1], "wording": "", "position": "", "rival": ""}

`gold` has the numbers of the passages shown that hold the quote, from 1. `wording` and `position` are of an instruction
that was planted in a passage. `rival` is the value that an unfaithful answer would give: of a poisoned passage, of the
document that the passage contradicts, of the wrong passage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.retrieval.prompts import PromptFormat, Reply, parse
from tasks.stage.config import suggest
from tasks.stage.errors import ArtifactError

CONDITIONS = ("closed", "retrieved", "gold", "wrong", "removed", "planted", "contradicting", "poisoned")
"""What stands in place of the passages: none; those that the index finds; the one that holds the answer; others alone;
those found without the one that holds it; those found, with an instruction in one; one that says otherwise than the
document; those found, with a copy of the right one that says otherwise."""
COLUMNS: Mapping[str, type] = {
    "answer": str, "condition": str, "query": str, "document": str, "quote": str, "passages": list, "gold": list,
    "wording": str, "position": str, "rival": str,
}  # fmt: skip
"""Columns that every row has, with their types."""
METRICS = ("exact_match", "f1", "followed")
"""Metrics that the task's grader gives: the right answer, the words it shares with it, a planted instruction obeyed."""


@dataclass(frozen=True)
class Answered:
    """One question with what a model said."""

    query: str
    """The question alone, without passages: by it rows under several conditions are one question."""
    condition: str
    """One of `CONDITIONS`."""
    shown: tuple[str, ...]
    """Ids of the chunks that its passages were made from, in their order."""
    gold: frozenset[int]
    """Numbers of the passages that hold the answer, from 1."""
    answer: str
    """Right answer; of a passage that contradicts the document, what the passage says."""
    rival: str
    """Value that an unfaithful answer would give; empty where there is none."""
    wording: str
    """Wording of the planted instruction; empty without one."""
    position: str
    """Place of the planted instruction; empty without one."""
    reply: Reply
    """The response, parsed."""
    scores: Mapping[str, float]
    """Metric to the score that the task's grader gave."""


def check(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Check rows before a model is asked.

    Args:
        rows: of one task.
        path: their file, for messages.

    Raises:
        ArtifactError: a column is missing or of another type, a condition is unknown, a gold passage is not shown, or
            a question stands twice under a condition that asks once.
    """
    asked: dict[tuple[str, str, str, str], int] = {}
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
        key = (row["condition"], row["query"], row["wording"], row["position"])
        if key in asked:
            raise ArtifactError(
                f"{where}: asks '{row['query']}' under '{row['condition']}' as line {asked[key]} does; ask it once"
            )
        asked[key] = number


def read(rows: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]], form: PromptFormat) -> list[Answered]:
    """Join rows with what a model said to them.

    Args:
        rows: as `check` takes them.
        samples: `response` and `scores` of each, in the order of the rows.
        form: of the prompts, by which a response is read.
    """
    return [
        Answered(
            query=row["query"],
            condition=row["condition"],
            shown=tuple(row["passages"]),
            gold=frozenset(row["gold"]),
            answer=row["answer"],
            rival=row["rival"],
            wording=row["wording"],
            position=row["position"],
            reply=parse(sample["response"], form),
            scores=sample["scores"],
        )
        for row, sample in zip(rows, samples, strict=True)
    ]
