"""Answers sampled from a model: batched, seeded, the same for the same model, prompts and thread count."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import model_validator

from tasks.models.chat_template import render
from tasks.models.turn_ends import end_tokens
from tasks.stage.config import Strict

log = logging.getLogger("polm")


class SamplingSettings(Strict):
    """How answers are drawn."""

    samples_per_prompt: int
    """Answers to each prompt."""
    temperature: float
    """Temperature of the softmax; 0 takes the likeliest token, and then one answer a prompt is all there is."""
    top_p: float
    """Share of the probability mass that may be drawn from, 0 to 1."""
    max_new_tokens: int
    """Longest answer, in tokens."""
    batch_size: int
    """Answers written at once."""

    @model_validator(mode="after")
    def _one_likeliest(self) -> Self:
        if self.temperature == 0 and self.samples_per_prompt > 1:
            raise ValueError(
                f"samples_per_prompt is {self.samples_per_prompt}, but temperature 0 gives one answer only; "
                f"raise temperature or write samples_per_prompt: 1"
            )
        return self


@dataclass(frozen=True)
class Answer:
    """One sampled answer."""

    text: str
    """Special tokens left out, stripped at both ends."""
    tokens: int
    """Tokens drawn, the one that ends the answer included."""


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[dict[str, str]]],
    sampling: SamplingSettings,
    chat_template_args: dict[str, Any],
    seed: int,
    report: Callable[[int, int], None],
) -> list[list[Answer]]:
    """Answer every prompt `samples_per_prompt` times through the chat template.

    Args:
        model: a causal language model, on its device.
        tokenizer: its tokenizer, with a pad token.
        prompts: conversations that end with the user.
        sampling: how.
        chat_template_args: passed to the chat template, e.g. `{"enable_thinking": False}`.
        seed: of torch; equal seeds draw equal answers.
        report: called with prompts done and prompts in all.

    Returns:
        For each prompt its answers, in the order drawn.
    """
    import torch
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    model.eval()
    ends = end_tokens(model, tokenizer)
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=sampling.temperature > 0,
    )
    if sampling.temperature > 0:
        config.update(temperature=sampling.temperature, top_p=sampling.top_p, top_k=0)
    texts = [
        render(tokenizer, prompt, add_generation_prompt=True, chat_template_args=chat_template_args)
        for prompt in prompts
    ]
    _warn_of_context(model, tokenizer, texts, sampling.max_new_tokens)
    count = sampling.samples_per_prompt
    size = max(1, sampling.batch_size // count)
    answers: list[list[Answer]] = []
    for start in range(0, len(texts), size):
        prompt_ids = tokenizer(texts[start : start + size], add_special_tokens=False)["input_ids"]
        ids = _continued(model, tokenizer, [prompt for prompt in prompt_ids for _ in range(count)], config)
        words = [row[:-1] if row[-1] in ends else row for row in ids]
        decoded = tokenizer.batch_decode(words, skip_special_tokens=True)
        batch = [Answer(text.strip(), len(row)) for text, row in zip(decoded, ids, strict=True)]
        answers += [batch[i : i + count] for i in range(0, len(batch), count)]
        report(len(answers), len(texts))
    return answers


def texts(answers: Sequence[Answer]) -> list[str]:
    """Take the text of each answer."""
    return [answer.text for answer in answers]


def _warn_of_context(model: Any, tokenizer: Any, conversations: list[str], most: int) -> None:
    """Say how many prompts leave no room for a whole answer: what is drawn beyond the context is of little worth."""
    context = model.config.get_text_config().to_dict().get("max_position_embeddings")
    lengths = [len(ids) for ids in tokenizer(conversations, add_special_tokens=False)["input_ids"]]
    beyond = sum(length + most > context for length in lengths) if context else 0
    if beyond:
        log.warning(
            "warning: %d of %d prompts (longest %d tokens) leave no room for %d new tokens in the context of %d",
            beyond,
            len(conversations),
            max(lengths),
            most,
            context,
        )


def _continued(model: Any, tokenizer: Any, prompts: list[list[int]], config: Any) -> list[list[int]]:
    """Draw new tokens after each prompt, up to and with the one that ends the answer."""
    import torch

    from tasks.sampling.generate import draw, plan

    how = plan(model, config)
    if how is not None:
        return draw(model, prompts, how).ids
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    with torch.no_grad():
        tokens = model.generate(**batch, generation_config=config)
    new = tokens[:, batch["input_ids"].shape[1] :]
    ended = torch.isin(new, torch.tensor(config.eos_token_id, device=new.device))
    lengths = ((ended.cumsum(1) - ended.long()) == 0).sum(1).tolist()
    return [row[:length] for row, length in zip(new.tolist(), lengths, strict=True)]
