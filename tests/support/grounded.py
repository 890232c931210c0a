"""Answers to questions with passages, and rows of an evaluation of them."""

from types import SimpleNamespace
from typing import Any

from tasks.retrieval.answered import Answered, Planted
from tasks.retrieval.prompts import PromptFormat, parse

FORM = PromptFormat(
    passages=2,
    passage="{text} [{number}]",
    question="{passages}\n{question}",
    reply="{quote} [{number}] {answer}",
    abstain="{subject}: not in the passages.",
    citation=r"\[(\d+)\]",
)
TEXTS = {"c1": "Bedot lives in Lovar.", "c2": "Tamok lives in Gipul.", "c3": "Rihan was born in 1912."}
"""Chunk id to its text."""
SETTINGS = SimpleNamespace(resamples=500, confidence=0.95, seed=0)


def answered(
    asked: str,
    condition: str = "retrieved",
    *,
    said: str = "",
    gold: list[int] | None = None,
    shown: tuple[str, ...] = ("c1", "c2"),
    planted: Planted | None = None,
    **scores: float,
) -> Answered:
    """One question with what was said to it."""
    graded = {"exact_match": 0.0, "f1": 0.0, "followed": 0.0} | scores
    return Answered(asked, condition, shown, frozenset(gold or []), planted, parse(said, FORM), graded)


def row(condition: str = "retrieved", **columns: Any) -> dict[str, Any]:
    """One row of an evaluation, which shows Bedot's town and Tamok's; `columns` replace others."""
    made = {
        "answer": "Lovar",
        "condition": condition,
        "asked": "Where does Bedot live?",
        "document": "facts/d1.txt",
        "quote": TEXTS["c1"],
        "passages": ["c1", "c2"],
        "gold": [1],
        "lure": "Gipul",
    } | columns
    condition = made["condition"]
    passages = [TEXTS[name] for name in made["passages"]]
    return {"id": f"{condition} {made['asked']}", "question": FORM.render(made["asked"], passages), **made}
