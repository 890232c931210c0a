"""The PyTorch model that an exported or quantised one is compared with, and the prompts that both are given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.export.divergence import log_softmax
from tasks.models.chat_template import render
from tasks.models.turn_ends import NO_TEMPLATE, end_tokens
from tasks.stage.errors import ModelError

GREEDY = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
"""Values of every setting in a model's generation_config.json, from which `generate` would take the missing ones."""


@dataclass(frozen=True)
class Prompt:
    """A held-out prompt as the Hugging Face tokenizer reads it."""

    messages: list[dict[str, str]]
    """Conversation that ends with the user."""
    text: str
    """Conversation by the chat template, up to where the assistant begins."""
    ids: list[int]
    """Tokens of the text."""


class Reference:
    """A causal language model that answers greedily, without sampling settings of its own."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Take a loaded model.

        Args:
            model: from `load_causal_lm`, on its device.
            tokenizer: from `load_tokenizer`.
        """
        self._model = model.eval()
        self._tokenizer = tokenizer
        self.ends = end_tokens(model, tokenizer)

    def generate(
        self, ids: Sequence[int], *, max_new_tokens: int, min_new_tokens: int = 0, streamer: Any = None
    ) -> list[int]:
        """Return the greedy answer to a prompt, the end token included."""
        import torch
        from transformers import GenerationConfig

        config = GenerationConfig(
            **GREEDY,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        tokens = torch.tensor([list(ids)], device=self._model.device)
        out = self._model.generate(
            tokens, attention_mask=torch.ones_like(tokens), generation_config=config, streamer=streamer
        )
        return [int(i) for i in out[0, len(ids) :]]

    def text(self, answer: Sequence[int]) -> str:
        """Return the text of an answer, special tokens left out."""
        return str(self._tokenizer.decode(list(answer), skip_special_tokens=True))

    def log_probs(self, ids: Sequence[int], answer: Sequence[int]) -> Any:
        """Return the log-probabilities along `answer` after `ids`, a float64 array `[len(answer), vocabulary]`."""
        import torch

        with torch.inference_mode():
            logits = self._model(
                torch.tensor([[*ids, *answer]], device=self._model.device), logits_to_keep=len(answer) + 1
            ).logits[0, :-1]
        return log_softmax(logits.float().cpu().numpy())


def render_prompts(
    tokenizer: Any, conversations: Sequence[list[dict[str, str]]], chat_template_args: Mapping[str, Any]
) -> list[Prompt]:
    """Render and tokenize conversations with the Hugging Face tokenizer.

    Args:
        tokenizer: from `load_tokenizer`.
        conversations: each ends with the user.
        chat_template_args: passed to the chat template, e.g. `{"enable_thinking": False}`.

    Raises:
        ModelError: the tokenizer has no chat template.
        DataError: the template refuses a conversation.
    """
    if not tokenizer.chat_template:
        raise ModelError(f"the model has no chat template; {NO_TEMPLATE}")
    prompts = []
    for messages in conversations:
        text = render(tokenizer, messages, add_generation_prompt=True, chat_template_args=chat_template_args)
        prompts.append(Prompt(messages, text, tokenizer(text, add_special_tokens=False)["input_ids"]))
    return prompts
