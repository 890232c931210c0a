"""Which refined drafts teach, and what: the rows that a round of self-refinement learns."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.self_training.revision import Attempt, Turns, assistant_message, to_check, to_revise

Rows = list[dict[str, Any]]


class Graded(NamedTuple):
    """An attempt, and whether its draft and its final answer reach the bar."""

    attempt: Attempt
    draft_correct: bool
    final_correct: bool

    @property
    def improved(self) -> bool:
        """Whether the revision turned wrong into right."""
        return self.final_correct and not self.draft_correct

    @property
    def spoilt(self) -> bool:
        """Whether the revision turned right into wrong."""
        return self.draft_correct and not self.final_correct

    @property
    def left_alone(self) -> bool:
        """Whether the draft was right, and the critique let it stand."""
        return self.draft_correct and self.attempt.revision is None


def lessons(
    graded: Sequence[Graded], turns: Turns, *, keep_per_prompt: int, keep_right: float, learn_turns: bool
) -> Rows:
    """Make the training rows of the attempts that improved, and of some right drafts that were left alone.

    Args:
        graded: all attempts of a round.
        turns: what the user says between the model's turns.
        keep_per_prompt: most revisions to one prompt, the first ones.
        keep_right: right drafts, one a prompt at most, for each revision.
        learn_turns: whether the critique and the revision are learnt where they stand, too.

    Returns:
        Rows `{"prompt": […], "completion": […]}`, none of them twice.
    """
    improved = _per_prompt([each.attempt for each in graded if each.improved], keep_per_prompt)
    left_alone = _per_prompt([each.attempt for each in graded if each.left_alone], 1)
    left_alone = left_alone[: round(keep_right * len(improved))]
    rows = [row for attempt in [*improved, *left_alone] for row in _training_rows(attempt, turns, learn_turns)]
    return [json.loads(text) for text in dict.fromkeys(json.dumps(row, ensure_ascii=False) for row in rows)]


def _per_prompt(attempts: list[Attempt], most: int) -> list[Attempt]:
    """Take at most so many attempts at one prompt, the first ones."""
    by_prompt: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_prompt.setdefault(json.dumps(attempt.prompt), []).append(attempt)
    return [attempt for group in by_prompt.values() for attempt in group[:most]]


def _training_rows(attempt: Attempt, turns: Turns, learn_turns: bool) -> Rows:
    """Make what an attempt teaches: its final answer at once, and with `learn_turns` the turns behind the draft.

    Each turn is a row of its own, as some chat templates write the last turn otherwise than those before it.
    """
    rows: Rows = [{"prompt": attempt.prompt, "completion": assistant_message(attempt.final)}]
    if learn_turns:
        to_critique = to_check(attempt.prompt, attempt.draft.text, turns)
        rows.append({"prompt": to_critique, "completion": assistant_message(attempt.critique.text)})
        if attempt.revision:
            to_answer = to_revise(to_critique, attempt.critique.text, turns)
            rows.append({"prompt": to_answer, "completion": assistant_message(attempt.revision.text)})
    return rows
