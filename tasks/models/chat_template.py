"""Chat templates: conversations rendered as the text that a model reads, and marks of what the assistant wrote.

Loss on assistant tokens needs `{% generation %}` marks in the template. Most published templates have none, and then a
trainer silently learns from everything or from nothing. `mark_generation` swaps such a template for a marked one where
both render the same bytes, and else for the one TRL keeps for that model family, saying so.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from tasks.models.turn_ends import NO_TEMPLATE, RAISED, turn_end
from tasks.stage.errors import DataError, ModelError

log = logging.getLogger("polm")
SHOWN = 60
"""Characters of a row that a message repeats."""

CHATML = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""ChatML with generation marks."""

_PROBES: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    [
        {"role": "system", "content": "s"},
        {"role": "user", "content": " a\n"},
        {"role": "assistant", "content": "b "},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ],
]


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool,
    chat_template_args: Mapping[str, Any],
) -> str:
    """Return a conversation as the text that the model reads.

    Args:
        tokenizer: any Hugging Face tokenizer with a chat template.
        messages: with `role` and `content`.
        add_generation_prompt: whether the text goes on to where the assistant begins to answer.
        chat_template_args: passed to the chat template, e.g. `{"enable_thinking": False}`.

    Raises:
        DataError: the template refuses the conversation, as Gemma's does with a system message.
    """
    options = {"tokenize": False, "add_generation_prompt": add_generation_prompt, **chat_template_args}
    return str(templated(tokenizer, messages, **options))


def templated(tokenizer: Any, turns: Sequence[Mapping[str, str]], **options: Any) -> Any:
    """Return a row's turns through the chat template, as whatever the options ask for: text, or tokens and masks.

    Args:
        tokenizer: any Hugging Face tokenizer with a chat template.
        turns: messages with `role` and `content`.
        options: of `apply_chat_template`.

    Raises:
        DataError: the template refuses them, as Gemma's does with a system message.
    """
    try:
        return tokenizer.apply_chat_template(turns, **options)
    except (TemplateError, *RAISED) as e:
        roles = ", ".join(turn["role"] for turn in turns)
        opening = " ".join(turns[0]["content"].split())[:SHOWN]
        raise DataError(
            f"the model's chat template refuses the row of {roles} that begins {opening!r} ({e}); shape the rows in "
            f"data.yaml as it takes them (without a system message, put its text in the user's), or change the "
            f"template in the folder that base.yaml names"
        ) from None


def marks_generation(tokenizer: Any) -> bool:
    """Tell whether the tokenizer's template marks assistant tokens, the end of a turn included, by rendering it.

    A model that learns the answer and not its end answers for ever.
    """
    if not tokenizer.chat_template or "{% generation" not in tokenizer.chat_template.replace("{%-", "{%"):
        return False
    encoded = tokenizer.apply_chat_template(
        _PROBES[0], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    mask = encoded["assistant_masks"]
    end = turn_end(tokenizer)
    ended = end is None or end in [token for token, marked in zip(encoded["input_ids"], mask, strict=True) if marked]
    return bool(ended and 0 < sum(mask) < len(mask))


def mark_generation(tokenizer: Any, folder: Any) -> None:
    """Give the tokenizer a template with generation marks, in place.

    Args:
        tokenizer: any Hugging Face tokenizer.
        folder: where it came from, for the message.

    Raises:
        ModelError: it has no template, one that fails on a question and an answer, or one that no marked template known
            here renders the same bytes as.
    """
    if not tokenizer.chat_template:
        raise ModelError(f"{folder}: no chat template; {NO_TEMPLATE}")
    _check_renders(tokenizer, folder)
    if marks_generation(tokenizer):
        return
    original = tokenizer.chat_template
    for candidate in _candidates(original):
        if _same_bytes(tokenizer, original, candidate):
            tokenizer.chat_template = candidate
            if marks_generation(tokenizer):
                return
    from trl.chat_template_utils import get_training_chat_template

    tokenizer.chat_template = original
    try:
        known = get_training_chat_template(tokenizer)
    except ValueError:
        known = None
    if known:
        tokenizer.chat_template = known
        log.info(
            "%s: TRL's marked variant of its chat template is used; turns before the last may render otherwise", folder
        )
        return
    raise ModelError(
        f"{folder}: the chat template does not mark the assistant's tokens and the end of its turn, and none of the "
        f"marked templates renders the same text; put {{% generation %}} … {{% endgeneration %}} around the "
        f"assistant's content and the token behind it in chat_template.jinja"
    )


def warn_of_other_prompt(tokenizer: Any, folder: Any) -> None:
    """Warn of a template that asks for an answer with other tokens than stand before one in a conversation.

    A prompt that ends in a space is the common case: in a conversation the space belongs to the answer's first token,
    so that what the model has learnt there is not what it is asked for.
    """
    question = _PROBES[0][:1]
    asked = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    known = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "The answer"}], tokenize=False)
    prompt, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, known))
    if whole[: len(prompt)] != prompt:
        first = next(i for i, token in enumerate([*whole, None]) if i >= len(prompt) or token != prompt[i])
        ends = [tokenizer.convert_ids_to_tokens(ids[first : first + 3]) for ids in (prompt, whole)]
        log.warning(
            "warning: %s: the chat template asks for an answer with other tokens than a conversation has before one "
            "(%s, and there %s), so that the model is asked otherwise than it is trained; let `add_generation_prompt` "
            "write the same text, and end it in no space",
            folder,
            *ends,
        )


def _check_renders(tokenizer: Any, folder: Any) -> None:
    try:
        tokenizer.apply_chat_template(_PROBES[0], tokenize=False)
        tokenizer.apply_chat_template(_PROBES[0][:1], tokenize=False, add_generation_prompt=True)
    except (TemplateError, *RAISED) as e:
        line = f", line {e.lineno}" if isinstance(e, TemplateSyntaxError) else ""
        raise ModelError(
            f"{folder}: the chat template cannot write a question and its answer ({type(e).__name__}{line}: {e}); "
            f"correct chat_template.jinja"
        ) from None


def _candidates(original: str) -> list[str]:
    """List marked templates worth trying: plain ChatML, and ChatML that opens with the original's system message."""
    system = re.search(r"<\|im_start\|>system(?:\\n|\n)(.*?)<\|im_end\|>", original, re.S)
    if not system:
        return [CHATML]
    opening = json.dumps(f"<|im_start|>system\n{system.group(1)}<|im_end|>\n")
    return [CHATML, f"{{%- if messages[0]['role'] != 'system' %}}{{{{- {opening} }}}}{{%- endif %}}\n{CHATML}"]


def _same_bytes(tokenizer: Any, a: str, b: str) -> bool:
    for probe in _PROBES:
        for prompt in (False, True):
            messages = probe[:-1] if prompt else probe
            texts = [_rendered(tokenizer, t, messages, prompt) for t in (a, b)]
            if texts[0] != texts[1]:
                return False
    return True


def _rendered(tokenizer: Any, template: str, messages: list[dict[str, str]], prompt: bool) -> str | None:
    """Render a conversation; None where the template refuses it, as some do with a system message."""
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
            )
        )
    except (TemplateError, *RAISED):
        return None
