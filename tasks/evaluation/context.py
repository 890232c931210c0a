"""Questions that do not fit a model's context, found before any is asked, alike for every engine.

Left to itself, lm-evaluation-harness cuts the head off such a prompt, chat template and all, and scores the answer.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from tasks.stage.errors import DataError

log = logging.getLogger("polm")

TooLong = Literal["error", "unanswered"]
"""Treatment of such a question: the stage stops, or the question counts as answered wrongly."""


def fitting(requests: Sequence[Any], prompts: Sequence[int], answers: Sequence[int], context: int) -> list[int]:
    """Find the requests whose prompt and answer fit the context together.

    Args:
        requests: lm-eval's, each of one row.
        prompts: tokens of each prompt.
        answers: tokens of each answer, or the most that it may have.
        context: most tokens that the model takes.

    Returns:
        Numbers of those requests, in order.
    """
    return [i for i in range(len(requests)) if prompts[i] + answers[i] <= context]


def row_name(request: Any) -> Any:
    """Name the row of a request: by its `id`, or by its number, from 0, where rows of a benchmark have none."""
    return request.doc.get("id", request.doc_id)


def require_all(
    requests: Sequence[Any], prompts: Sequence[int], answers: Sequence[int], context: int, advice: str
) -> None:
    """Raise DataError that names the first row that does not fit, and how many there are; arguments as `fitting`."""
    fit = set(fitting(requests, prompts, answers, context))
    over = [i for i in range(len(requests)) if i not in fit]
    if not over:
        return
    first = over[0]
    raise DataError(
        f"task {requests[first].task_name}, row {row_name(requests[first])}: a prompt of {prompts[first]} tokens "
        f"leaves no room for an answer of {answers[first]} in the context of {context} ({len(over)} of {len(requests)} "
        f"rows do not fit); {advice}"
    )


def answerable(
    requests: Sequence[Any], prompts: Sequence[int], answers: Sequence[int], context: int, too_long: TooLong
) -> tuple[list[int], set[tuple[str, int]]]:
    """Divide the requests into those to ask and those that are too long.

    Args:
        requests: as in `fitting`, and so are `prompts`, `answers` and `context`.
        prompts: as in `fitting`.
        answers: as in `fitting`.
        context: as in `fitting`.
        too_long: treatment of the others.

    Returns:
        Numbers of the requests to ask, and of the others the task and the row's number there, from 0.

    Raises:
        DataError: with `error`, when there are others.
    """
    if too_long == "error":
        advice = "ask shorter questions, lower the task's max_gen_toks, or set `too_long: unanswered` in evaluate.yaml"
        require_all(requests, prompts, answers, context, advice)
    fit = fitting(requests, prompts, answers, context)
    unanswered = {(requests[i].task_name, requests[i].doc_id) for i in set(range(len(requests))).difference(fit)}
    if unanswered:
        log.warning(
            "warning: %d of %d questions do not fit the context of %d tokens with an answer, and count as unanswered",
            len(unanswered),
            len(requests),
            context,
        )
    return fit, unanswered


def require_scorable(requests: Sequence[Any], prompts: Sequence[int], answers: Sequence[int], context: int) -> None:
    """Raise DataError when a given answer does not fit behind its question: it cannot count as anything."""
    require_all(requests, prompts, answers, context, "leave the row out of the data, or lower the task's `limit`")
