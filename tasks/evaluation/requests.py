"""Requests of lm-evaluation-harness to a model: their tokens, and conversations that a template refuses."""

import logging
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

log = logging.getLogger("polm")


def without_system(lm: Any, chat_history: list[dict[str, str]], add_generation_prompt: bool) -> str:
    """Render a conversation without its system message, as the harness does where a template refuses it."""
    left = [message for message in chat_history if message["role"] != "system"]
    if not lm.warned:
        log.warning("warning: the chat template takes no system message; the benchmark's own is left out")
        lm.warned = True
    return str(lm.apply_chat_template(left, add_generation_prompt))


def generation_lengths(lm: Any, requests: list[Any], default: int) -> tuple[list[int], list[int]]:
    """Count the tokens of each prompt, and those that each answer may have: the task's `max_gen_toks`, or `default`."""
    prompts = [len(lm.tok_encode(request.args[0])) for request in requests]
    return prompts, [normalize_gen_kwargs(dict(r.args[1]), default)["max_gen_toks"] for r in requests]


def pair_lengths(lm: Any, requests: list[Any]) -> tuple[list[int], list[int]]:
    """Count the tokens of each prompt and of each given answer."""
    pairs = [
        lm._encode_pair(*request.args) if request.args[0] else ([0], lm.tok_encode(request.args[1]))
        for request in requests
    ]  # an empty prompt is one token, which begins a text
    return [len(prompt) for prompt, _ in pairs], [len(answer) for _, answer in pairs]
