"""Held-out rows that a pruned or quantised model is compared on, and the loss of its answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from tasks.compression import available
from tasks.compression.available import Taken
from tasks.compression.calibration import conversation
from tasks.models.chat_template import templated
from tasks.stage.config import Strict
from tasks.stage.data_folder import split_file
from tasks.stage.errors import DataError
from tasks.training import rows as training_rows


class HeldOut(Strict):
    """Validation rows on which a model is compared with the one it was made from."""

    answers: str | None
    """Set whose written answers give the loss, e.g. `sft`; null takes the held-out answers that there are."""
    answer_rows: int = Field(ge=1)
    """Most rows of that set, from the first."""
    prompts: str | None
    """Set whose prompts are answered, e.g. `prompts`; null takes the held-out prompts that there are."""
    prompt_rows: int = Field(ge=1)
    """Most rows of that set, from the first."""
    max_new_tokens: int = Field(ge=1)
    """Longest answer, in tokens."""
    chat_template_args: dict[str, Any]
    """Arguments passed to the chat template when the prompts are answered, e.g. `enable_thinking: false`."""


class Rows(NamedTuple):
    """The held-out rows of a measurement, and what its report says of them."""

    answers: list[dict[str, Any]]
    """Conversations whose last answer gives the loss."""
    prompts: list[dict[str, Any]]
    """Rows whose `prompt` is answered."""
    record: dict[str, Any]
    """`answers` and `prompts`, each with `files`, `rows` and `by_default`, as `available.record` has them."""


def read(settings: HeldOut, data: Path) -> Rows:
    """Read the held-out rows.

    Args:
        settings: sets and numbers of rows.
        data: data artifact.

    Raises:
        DataError: no such set, or, of a set that is null, no row of any.
    """
    answers = _taken(settings.answers, lambda: available.answers(data, "validation"), data)[: settings.answer_rows]
    prompts = _taken(settings.prompts, lambda: available.prompts(data), data)[: settings.prompt_rows]
    record = {
        "answers": available.record(answers, by_default=settings.answers is None),
        "prompts": available.record(prompts, by_default=settings.prompts is None),
    }
    return Rows([one.row for one in answers], [one.row for one in prompts], record)


def _taken(name: str | None, those_there_are: Callable[[], list[Taken]], data: Path) -> list[Taken]:
    if name is None:
        return those_there_are()
    file = split_file(data, name, "validation").relative_to(data).as_posix()
    return [Taken(file, row) for row in training_rows.read(data, name, "validation")]


def loss_per_token(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the loss of a model on the written answers.

    Args:
        model: on its device.
        tokenizer: its chat template marks the assistant's tokens (`chat_template.mark_generation`).
        rows: conversations; the tokens of a row's `prompt` do not count, whoever says them.

    Returns:
        `nats_per_token` over the assistant's tokens, its exponential `perplexity`, and how many `tokens` there were.

    Raises:
        DataError: not one token of the assistant's.
    """
    import torch

    nats = 0.0
    tokens = 0
    model.eval()
    for row in rows:
        encoded = templated(
            tokenizer, conversation(row), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = torch.tensor([encoded["input_ids"]], device=model.device)
        mask = torch.tensor(encoded["assistant_masks"], device=model.device)[1:].bool()
        mask[: _prompt_tokens(row, tokenizer, encoded["input_ids"]) - 1] = False
        with torch.inference_mode():
            log_probs = model(ids).logits[0, :-1].float().log_softmax(-1)
        answer_log_probs = log_probs.gather(-1, ids[0, 1:, None])[:, 0][mask]
        nats -= float(answer_log_probs.double().sum())
        tokens += len(answer_log_probs)
    if not tokens:
        raise DataError("the held-out rows have no token of the assistant's to measure the loss on")
    mean = nats / tokens
    return {"nats_per_token": round(mean, 6), "perplexity": round(math.exp(min(mean, 50.0)), 4), "tokens": tokens}


def _prompt_tokens(row: Mapping[str, Any], tokenizer: Any, ids: list[int]) -> int:
    """Count the tokens of a row's `prompt` at the start of its `ids`: at least 1, as the first is never predicted."""
    if "messages" in row:
        return 1
    opening = tokenizer.apply_chat_template(row["prompt"], tokenize=True, return_dict=True, add_generation_prompt=True)
    pairs = enumerate(zip(opening["input_ids"], ids, strict=False))
    return max(1, next((i for i, (a, b) in pairs if a != b), len(opening["input_ids"])))
