"""Draft, critique, revision: the turns of self-refinement, with one model in all roles.

Self-Refine (Madaan et al., arXiv:2303.17651, algorithm 1) with one pass: the critique is the feedback, and one that
finds no fault is its stopping condition, so that the draft stands and no token is spent on it again. No grader looks
in between. As a conversation:

    user: Add 58 and 67.   assistant: 58 + 67: 8+7=14 5+6+1=12 so 124.
    user: Check it.        assistant: 58 + 67: 8+7=15 5+6+1=12 so 125.
    user: Revise it.       assistant: 58 + 67: 8+7=15 5+6+1=12 so 125.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field, field_validator

from tasks.grading.answers import final_number, normalised
from tasks.sampling.sample import Answer
from tasks.stage.config import Strict

Messages = list[dict[str, str]]
Ask = Callable[[Sequence[Messages]], list[Answer]]
"""Conversations that end with the user, to the model's one answer to each."""


class Turns(Strict):
    """What is said between the drafts, the critiques and the revisions."""

    check: str = Field(min_length=1)
    """What the user says to a draft."""
    revise: str = Field(min_length=1)
    """What the user says to a critique that finds fault."""
    fault: str | None
    """Regular expression that is found in a critique that finds fault; any other critique lets the draft stand. Null
    where a critique works the question out anew: it finds fault when it comes to another answer than the draft."""

    @field_validator("fault")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as e:
            raise ValueError(f"no regular expression: {e}") from None
        return pattern

    def finds_fault(self, critique: str, draft: str) -> bool:
        """Tell whether the critique says that the draft is to be revised. One that says nothing does not."""
        if self.fault is not None:
            return re.search(self.fault, critique) is not None
        return answer_key(critique) not in (answer_key(draft), None)


@dataclass(frozen=True)
class Attempt:
    """A draft and what became of it."""

    prompt: Messages
    draft: Answer
    critique: Answer
    revision: Answer | None
    """None where the critique let the draft stand."""

    @property
    def final(self) -> str:
        """The answer that counts."""
        return (self.revision or self.draft).text

    @property
    def tokens(self) -> int:
        """Tokens that the model wrote in all its turns."""
        return self.draft.tokens + self.critique.tokens + (self.revision.tokens if self.revision else 0)


def revised(ask: Ask, prompts: Sequence[Messages], drafts: Sequence[Answer], turns: Turns) -> list[Attempt]:
    """Have the model check each draft, and revise those in which it finds fault.

    Args:
        ask: the model.
        prompts: conversations that end with the user, shape (n,).
        drafts: its answers to them, shape (n,).
        turns: what the user says.
    """
    conversations = [to_check(prompt, draft.text, turns) for prompt, draft in zip(prompts, drafts, strict=True)]
    critiques = ask(conversations)
    faulty = [i for i, draft in enumerate(drafts) if turns.finds_fault(critiques[i].text, draft.text)]
    revisions = ask([to_revise(conversations[i], critiques[i].text, turns) for i in faulty]) if faulty else []
    by_draft = dict(zip(faulty, revisions, strict=True))
    return [
        Attempt(prompt, draft, critique, by_draft.get(i))
        for i, (prompt, draft, critique) in enumerate(zip(prompts, drafts, critiques, strict=True))
    ]


def answer_key(text: str) -> str | None:
    """Find what a text answers, so that two can be compared without a grader; None where it says nothing.

    The number that the text commits to, or else what it says after "the answer is", or else all of it, normalised. Two
    texts of one key give the same answer in the graders' eyes (`tasks/grading/answers.py`).
    """
    conclusion = re.split(r"\banswer(?:\s+is|\s*:)", text, flags=re.I)[-1]
    number = final_number(text if conclusion == text else conclusion)
    return (normalised(conclusion) or None) if number is None else str(number.normalize())


def assistant_message(text: str) -> Messages:
    """Make a text one turn of the assistant."""
    return [{"role": "assistant", "content": text}]


def to_check(prompt: Messages, draft: str, turns: Turns) -> Messages:
    """Make the conversation that the critique is written to."""
    return [*prompt, *assistant_message(draft), {"role": "user", "content": turns.check}]


def to_revise(checked: Messages, critique: str, turns: Turns) -> Messages:
    """Make the conversation that the revision is written to."""
    return [*checked, *assistant_message(critique), {"role": "user", "content": turns.revise}]
