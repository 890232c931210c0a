"""A base model that sees already: its folder, with a template that takes what the stages give it.

Text is given as a string, and pictures as a list of parts. Some templates, SmolVLM's for one, read lists alone and
write nothing in place of a string, so that a conversation would be trained without a word of it.
"""

from pathlib import Path
from typing import Any

from tasks.models.chat_template import warn_of_other_prompt
from tasks.models.multimodal import load_multimodal
from tasks.models.turn_ends import RAISED, require_turn_end
from tasks.stage.errors import ModelError

LISTED = """\
{%- set listed = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set part = {'type': 'text', 'text': message['content']} -%}
{%- set listed.messages = listed.messages + [dict(message, content=[part])] -%}
{%- else -%}
{%- set listed.messages = listed.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = listed.messages %}
"""
"""Opening of a chat template: messages whose content is text become lists of one part, then the old template follows.

Its last tag leaves white space alone, which may be the old template's.
"""
PROBE = "polm"


def load(folder: Path, dtype: str, chat_template: str | None) -> tuple[Any, Any]:
    """Load a model that sees and its processor, whose template writes strings as it writes lists of parts.

    Args:
        folder: model folder.
        dtype: of the weights, a torch dtype's name.
        chat_template: Jinja text in place of the model's own; None keeps it.

    Raises:
        ModelError: as `load_multimodal`, a library is missing that the processor needs, the processor does not count
            the tokens of pictures (SmolVLM's), or the template writes no conversation.
    """
    model, processor = load_multimodal(folder, dtype)
    if not hasattr(processor, "audio_token") and getattr(processor, "_get_num_multimodal_tokens", None) is None:
        raise ModelError(
            f"{folder}: its {type(processor).__name__} does not say how many tokens a picture takes, which the audit "
            f"of rows counts; take a model whose processor does, such as Qwen3-VL or LLaVA"
        )
    template = chat_template or processor.chat_template
    if not _writes_text(processor.tokenizer, template):
        template = LISTED + template
        if not _writes_text(processor.tokenizer, template):
            raise ModelError(f"{folder}: the chat template does not write a question and its answer; correct it")
    processor.chat_template = processor.tokenizer.chat_template = template
    warn_of_other_prompt(processor.tokenizer, folder)
    require_turn_end(processor.tokenizer, folder)
    return model, processor


def _writes_text(tokenizer: Any, template: str) -> bool:
    """Whether a template writes what messages say whose content is text."""
    from jinja2.exceptions import TemplateError

    said = [{"role": "user", "content": f"{PROBE} 1"}, {"role": "assistant", "content": f"{PROBE} 2"}]
    try:
        text = str(tokenizer.apply_chat_template(said, chat_template=template, tokenize=False))
    except (TemplateError, *RAISED):
        return False
    return all(turn["content"] in text for turn in said)
