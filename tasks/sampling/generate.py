"""Answers drawn from a causal language model: the distribution of `model.generate`, in less time.

`generate` carries a row that has ended on until the longest one ends, reads equal prompts once for each of their
answers, draws a random number for each entry of the vocabulary, and does its bookkeeping anew for every token. Here

- rows that have ended leave the batch and its cache, a quarter of them at a time;
- equal prompts are read once, and their cache is copied for each answer;
- on a CPU a token is drawn by one random number, through the inverse of the cumulative distribution;
- the log-probabilities of the drawn tokens come along, which saves PPO a forward pass.

What the loop knows is a plain decoder: a causal language model of transformers, with a LoRA adapter or none, that
prepares its inputs as most do, a cache of full or sliding-window attention, temperature, top-k, top-p and min-p. For
all else (`plan` gives None) `model.generate` stays. Tried and left out: a cache allocated in advance, because attention
over a part of a larger buffer costs more on a CPU than the copy it saves.
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tasks.stage.errors import DataError

DRAWING = {"max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p", "eos_token_id", "pad_token_id"}
"""Settings of `GenerationConfig` that the loop follows."""
IDLE = {"bos_token_id", "max_length", "disable_compile", "transformers_version", "_from_model_config"}
"""Settings that change nothing where a prompt and `max_new_tokens` are given."""
NEUTRAL = {
    "repetition_penalty": 1.0,
    "use_cache": True,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
}
"""Settings that change nothing at this value."""
SHARE_TO_DROP = 0.25
"""Share of the batch that has ended before it is made smaller: each time copies the cache of the others."""


class Plan(NamedTuple):
    """How to draw, with `generate`'s meaning of each setting."""

    temperature: float
    """0 takes the likeliest token."""
    top_k: int
    """0: all."""
    top_p: float
    min_p: float
    max_new_tokens: int
    ends: tuple[int, ...]
    """Tokens that end an answer."""
    pad: int


class DrawnAnswers(NamedTuple):
    """Answers to the prompts, in their order."""

    ids: list[list[int]]
    """Tokens up to and with the one that ends the answer."""
    logps: Tensor
    """Log-probabilities of the tokens, before top-k, top-p and min-p, `(B, longest)`, float32, 0 at padding."""
    temperature: float
    """Temperature of the log-probabilities; after 0, which draws the likeliest tokens, they are those of 1."""


def text_model(model: Any) -> PreTrainedModel | None:
    """Find the transformers model to call, a LoRA adapter left in it; None for one that does not map text to text."""
    from peft import LoraConfig, PeftModel

    if isinstance(model, PeftModel):
        adapter = model.active_peft_config
        if not isinstance(adapter, LoraConfig) or adapter.alora_invocation_tokens is not None:
            return None
        model = model.get_base_model()
    if not isinstance(model, PreTrainedModel) or model.config.is_encoder_decoder:
        return None
    alone = model.config.get_text_config() is model.config
    return model if alone and "position_ids" in signature(type(model).forward).parameters else None


def layers(model: PreTrainedModel) -> set[type[Any]]:
    """Name the kinds of cache layer that the model has."""
    return {type(layer) for layer in DynamicCache(config=model.config).layers}


def _decodes_as_usual(model: PreTrainedModel) -> bool:
    """Tell whether the model is called for a token as most are, and caches keys and values and nothing else."""
    kind = type(model)
    usual = GenerationMixin.prepare_inputs_for_generation, GenerationMixin._update_model_kwargs_for_generation
    if (kind.prepare_inputs_for_generation, kind._update_model_kwargs_for_generation) != usual:
        return False
    parameters = signature(kind.forward).parameters
    has_keys_and_values = layers(model) <= {DynamicLayer, DynamicSlidingWindowLayer}
    return has_keys_and_values and {"past_key_values", "logits_to_keep"} <= parameters.keys()


def plan(model: Any, config: GenerationConfig) -> Plan | None:
    """Plan to draw as `model.generate(generation_config=config)` does; None where only `generate` knows."""
    inner = text_model(model)
    if inner is None or not _decodes_as_usual(inner):
        return None
    if inner.training and inner.is_gradient_checkpointing:  # such a model keeps no cache
        return None
    # `generate` takes what the call leaves open from the model's own settings.
    settings = inner.generation_config.to_diff_dict() | config.to_diff_dict()
    for key in settings.keys() - DRAWING - IDLE:
        if key not in NEUTRAL or settings[key] != NEUTRAL[key]:
            return None
    ends = settings.get("eos_token_id")
    if not {"max_new_tokens", "pad_token_id"} <= settings.keys():
        return None
    drawing = settings.get("do_sample", False)
    if drawing and not {"temperature", "top_k", "top_p"} <= settings.keys():
        return None
    return Plan(
        temperature=settings["temperature"] if drawing else 0.0,
        top_k=settings["top_k"] if drawing else 0,
        top_p=settings["top_p"] if drawing else 1.0,
        min_p=settings.get("min_p", 0.0) if drawing else 0.0,
        max_new_tokens=settings["max_new_tokens"],
        ends=tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
        pad=settings["pad_token_id"],
    )


@torch.no_grad()
def draw(model: Any, prompts: Sequence[Sequence[int]], how: Plan) -> DrawnAnswers:
    """Draw an answer to each prompt; a prompt that stands there more than once gets as many.

    Args:
        model: what `plan` was made for, in the mode and on the device it shall answer in.
        prompts: token ids, none empty.
        how: the plan.

    Raises:
        DataError: the model's probabilities are no numbers.
    """
    inner = text_model(model)
    assert inner is not None, "draw() is for what plan() knows"
    device = inner.device
    count = len(prompts)
    distinct = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    number = {prompt: i for i, prompt in enumerate(distinct)}
    rows = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=device)
    ids, mask = _left_padded(distinct, how, device)
    cache = DynamicCache(config=inner.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = _forward(inner, ids, mask[:, : ids.size(1)], positions[:, : ids.size(1)], cache)
    if len(distinct) < count:
        cache.batch_select_indices(rows)
    logits, mask, positions = logits[rows], mask[rows], positions[rows]

    tokens = torch.full((count, how.max_new_tokens), how.pad, device=device)
    logps = torch.zeros(count, how.max_new_tokens, device=device)
    ends = torch.tensor(how.ends, dtype=torch.long, device=device)
    warpers = _warpers(how)
    rows = torch.arange(count, device=device)
    live = torch.ones(count, dtype=torch.bool, device=device)
    for step, length in enumerate(range(ids.size(1), ids.size(1) + how.max_new_tokens)):
        token, logp = _next(logits, how, warpers)
        tokens[rows, step] = token
        logps[rows, step] = logp
        live &= ~torch.isin(token, ends)
        alive = int(live.sum())
        if not alive or step + 1 == how.max_new_tokens:
            break
        if alive <= (1 - SHARE_TO_DROP) * len(live):
            remaining = live.nonzero()[:, 0]
            cache.batch_select_indices(remaining)
            rows = rows[remaining]
            mask = mask[remaining]
            positions = positions[remaining]
            token = token[remaining]
            live = live[remaining]
        logits = _forward(inner, token[:, None], mask[:, : length + 1], positions[:, length, None], cache)
    return _cut(tokens, logps, ends, how.temperature)


def _left_padded(prompts: list[tuple[int, ...]], how: Plan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make ids `(B, longest)` and their mask `(B, longest + max_new_tokens)`, in which all that may come is seen."""
    width = max(map(len, prompts))
    ids = torch.tensor([[how.pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = [[0] * (width - len(p)) + [1] * (len(p) + how.max_new_tokens) for p in prompts]
    return ids, torch.tensor(mask, device=device)


def _forward(model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    """Compute the logits of the next token, `(B, V)`, float32."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()


def _warpers(how: Plan) -> LogitsProcessorList:
    """Make what `generate` cuts the distribution with, in its order."""
    warpers = LogitsProcessorList()
    if how.top_k > 0:
        warpers.append(TopKLogitsWarper(how.top_k))
    if how.top_p < 1:
        warpers.append(TopPLogitsWarper(how.top_p))
    if how.min_p > 0:
        warpers.append(MinPLogitsWarper(how.min_p))
    return warpers


def _next(logits: Tensor, how: Plan, warpers: LogitsProcessorList) -> tuple[Tensor, Tensor]:
    """Draw a token for each row of `(B, V)`, `(B,)`, and give its log-probability."""
    if how.temperature == 0:
        logps = logits.log_softmax(-1)
        tokens = logits.argmax(-1)
    else:
        logps = (logits / how.temperature).log_softmax(-1)
        tokens = _draw_indices(warpers(None, logps).softmax(-1) if warpers else logps.exp())
    return tokens, logps.gather(1, tokens[:, None])[:, 0]


def _draw_indices(probabilities: Tensor) -> Tensor:
    """Draw an index for each row of `(B, V)`."""
    if probabilities.device.type != "cpu":
        return torch.multinomial(probabilities, 1)[:, 0]
    below = probabilities.cumsum(-1)
    total = below[:, -1:]
    if not total.isfinite().all():
        raise DataError("the model's probabilities are no numbers; if it was in training, lower trainer.learning_rate")
    point = torch.rand_like(total) * total  # below the total even when rounded: rand is at most 1 - 2^-24
    return torch.searchsorted(below, point, right=True)[:, 0]


def _cut(tokens: Tensor, logps: Tensor, ends: Tensor, temperature: float) -> DrawnAnswers:
    """Cut rows behind the first token that ends an answer."""
    ended = torch.isin(tokens, ends)
    after = ended.cumsum(1) - ended.long() > 0
    lengths = (~after).sum(1)
    ids = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    return DrawnAnswers(ids, logps.masked_fill(after, 0.0)[:, : int(lengths.max())], temperature)
