"""What pruning and quantising share: the held-out rows, and how a model is measured on them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from tasks.compression.calibration import conversation
from tasks.models.chat_template import templated
from tasks.stage.config import Strict, suggest
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run


class HeldOut(Strict):
    """Validation rows on which a model is compared with the one it was made from."""

    answers: str
    """Set whose written answers give the loss, e.g. `sft`."""
    answer_rows: int = Field(ge=1)
    """Most rows of it, from the first."""
    prompts: str
    """Set whose prompts are answered, e.g. `prompts`."""
    prompt_rows: int = Field(ge=1)
    """Most rows of it, from the first."""
    max_new_tokens: int = Field(ge=1)
    """Longest answer, in tokens."""
    chat_template_args: dict[str, Any]
    """Passed to the chat template when the prompts are answered, e.g. `enable_thinking: false`."""


def method_name(run: Run, prefix: str, methods: Mapping[str, Any]) -> str:
    """The method of a matrix's stage: what follows `prefix` in the artifact's name. Raises ConfigError."""
    if not run.name.startswith(prefix):
        raise ConfigError(
            f"{run.params_file}: the last part of --out is '{run.name}'; it must be {prefix} and a method"
        )
    name = run.name.removeprefix(prefix)
    if name not in methods:
        raise ConfigError(f"{run.params_file}: methods has no '{name}'{suggest(name, methods)}")
    return name


def answer_loss(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How likely a model finds the written answers.

    Args:
        model: on its device.
        tokenizer: whose chat template marks what the assistant wrote (`_chat.mark_generation`).
        rows: conversations; of a row's `prompt` nothing counts, whoever says it.

    Returns:
        `nats_per_token` over the assistant's tokens, its exponential `perplexity`, and how many `tokens` there were.

    Raises:
        DataError: not one token of the assistant's.
    """
    import torch

    total, count = 0.0, 0
    model.eval()
    for row in rows:
        told = templated(
            tokenizer, conversation(row), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = torch.tensor([told["input_ids"]], device=model.device)
        mask = torch.tensor(told["assistant_masks"], device=model.device)[1:].bool()
        mask[: _prompt_tokens(row, tokenizer, told["input_ids"]) - 1] = False
        with torch.inference_mode():
            scores = model(ids).logits[0, :-1].float().log_softmax(-1)
        chosen = scores.gather(-1, ids[0, 1:, None])[:, 0][mask]
        total -= float(chosen.double().sum())
        count += len(chosen)
    if not count:
        raise DataError("the held-out rows have no token of the assistant's to measure the loss on")
    mean = total / count
    return {"nats_per_token": round(mean, 6), "perplexity": round(math.exp(min(mean, 50.0)), 4), "tokens": count}


def _prompt_tokens(row: Mapping[str, Any], tokenizer: Any, ids: list[int]) -> int:
    """Tokens of a row's `prompt` at the start of its `ids`; at least 1, for the first token is never predicted."""
    if "messages" in row:
        return 1
    opening = tokenizer.apply_chat_template(row["prompt"], tokenize=True, return_dict=True, add_generation_prompt=True)
    pairs = enumerate(zip(opening["input_ids"], ids, strict=False))
    return max(1, next((i for i, (a, b) in pairs if a != b), len(opening["input_ids"])))
