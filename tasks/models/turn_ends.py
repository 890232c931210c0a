"""Where an answer ends, and how a model answers when nobody says how: engines that disagree here give other answers.

A model folder brings settings of its own (`generation_config.json`): penalties, temperatures, lengths, the tokens that
end a text. Each engine reads them in its own way, or not at all. So a model is loaded and written with the ends alone:
what else is asked of it is said by the recipe, or by the request.

The end of a turn is found by rendering the chat template. Often it is not the tokenizer's `eos_token`: a base model
that ends texts with `<|endoftext|>` and is given ChatML ends its turns with `<|im_end|>`, and an engine that knows only
the first writes the next turns as well.
"""

import logging
from typing import Any

from tasks.stage.errors import ModelError

log = logging.getLogger("polm")
PROBE = "polm"
"""An answer to render; no template changes it."""
RAISED = (TypeError, ValueError, LookupError, AttributeError)
"""What a chat template may raise by way of Python, besides Jinja's own errors."""
NO_TEMPLATE = "set `chat_template` in the recipe's base.yaml to a template's text"
"""Advice for a model without a chat template, as most base models are."""
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Settings of `generation_config.json` that stay."""
NEUTRAL = {
    "do_sample": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "use_cache": True,
    "output_attentions": False,
    "output_hidden_states": False,
}
"""Settings that change no answer at this value, and so may stay."""
IDLE = {"transformers_version", "_from_model_config"}
"""Keys that set nothing."""


def rendered_end(tokenizer: Any) -> str | None:
    """Return the text that the chat template writes behind an answer; None without a template that shows an answer."""
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except (TemplateError, *RAISED):
        return None
    _, answer, after = text.rpartition(PROBE)
    return after if answer else None


def turn_end(tokenizer: Any) -> int | None:
    """Return the token that ends an answer by the chat template; None when it ends with none.

    It is the first token behind the answer, white space aside, if that token is an added one (`<|im_end|>`, `</s>`):
    what a tokenizer may also find in the middle of a text is no end.
    """
    after = rendered_end(tokenizer)
    if after is None:
        return None
    markers = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    for token in tokenizer(after, add_special_tokens=False)["input_ids"]:
        if token in markers:
            return int(token)
        if tokenizer.decode([token]).strip():
            return None
    return None


def require_turn_end(tokenizer: Any, folder: Any) -> None:
    """Refuse a chat template whose answers have no end.

    Args:
        tokenizer: any Hugging Face tokenizer with a chat template.
        folder: where it came from, for the message.

    Raises:
        ModelError: no token of its own stands behind an answer, so that a model trained on it would never stop.
    """
    if turn_end(tokenizer) is None:
        raise ModelError(
            f"{folder}: the chat template writes {rendered_end(tokenizer)!r} behind an answer, which begins with no "
            f"added token, and the tokenizer ends a text with {tokenizer.eos_token!r}: no answer would ever end; "
            f"write {tokenizer.eos_token} behind the assistant's content in chat_template.jinja"
        )


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer, in ascending order.

    They are those of the model's `generation_config`, the tokenizer's `eos_token`, and the end of a turn.
    """
    listed = model.generation_config.eos_token_id
    found = {*(listed if isinstance(listed, list) else [listed]), tokenizer.eos_token_id, turn_end(tokenizer)}
    return sorted(int(token) for token in found if token is not None)


def settle(model: Any, tokenizer: Any, folder: Any) -> None:
    """Leave a model's generation settings with its ends alone, and name what is dropped. Works in place.

    A `generation_config` that says nothing else, and all of the ends, stays as it is.

    Args:
        model: a causal language model; one that generates nothing (a reward model) is left as it is.
        tokenizer: its tokenizer.
        folder: where it came from, for the notice.
    """
    from transformers import GenerationConfig

    if not model.can_generate():
        return
    settings = model.generation_config
    said = settings.to_diff_dict()
    loud = said.keys() - set(ENDS) - IDLE - {key for key, value in NEUTRAL.items() if said.get(key) == value}
    dropped = {key: said[key] for key in sorted(loud)}
    if dropped:
        shown = ", ".join(f"{key}: {value}" for key, value in dropped.items())
        log.warning(
            "%s: generation_config.json sets %s; engines differ in following it, so it is left out: the recipe, or "
            "the request, says how to sample",
            folder,
            shown,
        )
    ends = end_tokens(model, tokenizer)
    listed = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    missing = sorted(set(ends) - set(listed))
    if missing:
        names = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in missing)
        log.info("%s: answers also end with %s, which generation_config.json does not list", folder, names)
    if dropped or sorted(token for token in listed if token is not None) != ends:
        kept = {key: said[key] for key in ENDS if key in said}
        model.generation_config = GenerationConfig(**{**kept, "eos_token_id": ends if len(ends) > 1 else ends[0]})
