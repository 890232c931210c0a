"""What TRL's trainers make of a row, by its tokens: used whole, cut, or left out. They say nothing of it themselves.

    SFTTrainer      cuts a row at max_length, and drops it when no token with loss is left
    DPOTrainer      cuts each side at max_length, and drops a pair whose prompt alone fills it (not with keep_end)
    KTOTrainer      does the same to single answers
    RewardTrainer   drops a pair of which one side is longer than max_length
    RLOO, GRPO      look at no length: a long prompt is answered beyond the positions that the model knows

The same is found here with the tokenizer alone, before a model is loaded. A prompt that leaves no room for a whole
answer is left out by our stages themselves. A stage names the rule of its trainer, `row_rule`; where none of these
fits, it is a function of the stage's own file.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal, NamedTuple

from tasks.models.chat_template import templated

State = Literal["used", "cut", "left_out"]
Rows = Sequence[Mapping[str, Any]]

IMAGE_TOKENS = "image_tokens"
"""Tokens that a row's pictures take, beside those of its words."""


class Fate(NamedTuple):
    """What becomes of a row."""

    tokens: int
    """Tokens of its longest side, uncut."""
    state: State
    """`cut`: some of it was cut off and the rest is learnt; `left_out`: nothing of it is learnt."""


Rule = Callable[[Rows, Any, Mapping[str, Any]], list[Fate]]
"""What a trainer makes of whole rows: of the rows, the tokenizer with the training's chat template, and `settings`."""


def settings(trainer: Mapping[str, Any], config_class: type[Any]) -> dict[str, Any]:
    """Put the recipe's `trainer:` over the plain values that TRL's config class has for what is not given."""
    defaults = {field.name: field.default for field in fields(config_class) if field.default is not MISSING}
    return {**defaults, **trainer}


def answers(rows: Rows, tokenizer: Any, values: Mapping[str, Any]) -> list[Fate]:
    """Find the fates of rows for `SFTTrainer`: `messages`, `prompt` and `completion`, or `text`."""
    limit = values["max_length"]
    splits = values["packing"] and values["packing_strategy"] != "bfd"  # nothing is lost: the rest begins another block
    fates = []
    for row, tokens in zip(rows, _lengths([_turns(row) for row in rows], tokenizer), strict=True):
        if limit is None or tokens <= limit or splits:
            fates.append(Fate(tokens, "used"))
            continue
        mask = _with_loss(row, tokenizer, values)
        from_end = values["truncation_mode"] == "keep_end" and not values["packing"]
        left = mask[-limit:] if from_end else mask[:limit]
        fates.append(Fate(tokens, "cut" if any(left) else "left_out"))
    return fates


def pairs(rows: Rows, tokenizer: Any, values: Mapping[str, Any]) -> list[Fate]:
    """Find the fates of rows of `prompt`, `chosen` and `rejected` for `DPOTrainer`."""
    keeps_end = values["truncation_mode"] == "keep_end"
    return _by_prompt(rows, [("chosen", "rejected")] * len(rows), tokenizer, values["max_length"], keeps_end)


def rated(rows: Rows, tokenizer: Any, values: Mapping[str, Any]) -> list[Fate]:
    """Find the fates of rows for `KTOTrainer`: `prompt`, `completion` and `label`, or pairs, which are taken apart."""
    sides = [("completion",) if "completion" in row else ("chosen", "rejected") for row in rows]
    return _by_prompt(rows, sides, tokenizer, values["max_length"], keeps_end=False, together=False)


def compared(rows: Rows, tokenizer: Any, values: Mapping[str, Any]) -> list[Fate]:
    """Find the fates of rows of `prompt`, `chosen` and `rejected` for `RewardTrainer`."""
    limit = values["max_length"]
    sides = [_lengths([[*row["prompt"], *row[side]] for row in rows], tokenizer) for side in ("chosen", "rejected")]
    longest = [max(both) for both in zip(*sides, strict=True)]
    return [Fate(tokens, "used" if limit is None or tokens <= limit else "left_out") for tokens in longest]


def prompts(rows: Rows, tokenizer: Any, limit: int | None, template_args: Mapping[str, Any]) -> list[Fate]:
    """Find the fates of prompts to be answered. Args: limit: most tokens; template_args: for the chat template."""
    args = {"add_generation_prompt": True, **template_args}
    words = _lengths([row["prompt"] for row in rows], tokenizer, **args)
    lengths = [tokens + row.get(IMAGE_TOKENS, 0) for tokens, row in zip(words, rows, strict=True)]
    return [Fate(tokens, "used" if limit is None or tokens <= limit else "left_out") for tokens in lengths]


def names(rows: Rows) -> list[str]:
    """Name the rows by their ids; a row without one goes by its number, from 1."""
    return [str(row["id"]) if "id" in row else str(number) for number, row in enumerate(rows, 1)]


def unwritten(rows: Rows, tokenizer: Any, **template_args: Any) -> list[tuple[str, str]]:
    """Find rows of which the chat template does not write all, white space aside: a system message, or a thought.

    Returns:
        For each of them its name (`names`) and the role of the first such message.
    """
    unwritten_rows = []
    for name, row in zip(names(rows), rows, strict=True):
        for side in sides(row):
            text = "".join(templated(tokenizer, side, tokenize=False, **template_args).split())
            lost = next((turn["role"] for turn in side if "".join(turn["content"].split()) not in text), None)
            if lost:
                unwritten_rows.append((name, lost))
                break
    return unwritten_rows


def spelt(rows: Rows, tokenizer: Any) -> list[tuple[str, str]]:
    """Find rows with the text of a special token in a message, e.g. of the end of a turn: a tokenizer takes it for one.

    Returns:
        For each of them its name (`names`) and the first such token.
    """
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = sorted(added | set(tokenizer.all_special_tokens), key=lambda token: (-len(token), token))
    special = re.compile("|".join(map(re.escape, tokens)))
    spelt_rows = []
    for name, row in zip(names(rows), rows, strict=True):
        hits = (special.search(turn["content"]) for side in sides(row) for turn in side)
        if first := next((hit for hit in hits if hit), None):
            spelt_rows.append((name, first[0]))
    return spelt_rows


def sides(row: Mapping[str, Any]) -> list[Any]:
    """Return the conversations that a row holds: one, two for a pair, none for a text."""
    if "messages" in row:
        return [row["messages"]]
    sides = [row[key] for key in ("completion", "chosen", "rejected") if key in row]
    return [[*row["prompt"], *side] for side in sides or [[]]] if "prompt" in row else []


def _by_prompt(
    rows: Rows,
    sides: Sequence[Sequence[str]],
    tokenizer: Any,
    limit: int | None,
    keeps_end: bool,
    together: bool = True,
) -> list[Fate]:
    """Find the fates of rows whose answers carry the loss. With `together` all sides have the shortest prompt."""
    flat = [[*row["prompt"], *row[side]] for row, names in zip(rows, sides, strict=True) for side in names]
    lengths, fates = iter(_lengths(flat, tokenizer)), []
    for row, names in zip(rows, sides, strict=True):
        tokens = [next(lengths) for _ in names]
        if limit is None or max(tokens) <= limit:
            fates.append(Fate(max(tokens), "used"))
            continue
        starts = [_prompt_tokens(row["prompt"], row[side], tokenizer) for side in names]
        starts = [min(starts)] * len(starts) if together else starts
        lost = [start >= limit and not keeps_end for start in starts]
        fates.append(Fate(max(tokens), "left_out" if all(lost) else "cut"))
    return fates


def _turns(row: Mapping[str, Any]) -> Any:
    """Return all turns of a row, or its text."""
    if "completion" in row:
        return [*row["prompt"], *row["completion"]]
    return row["messages"] if "messages" in row else row["text"]


def _lengths(conversations: Sequence[Any], tokenizer: Any, **template_args: Any) -> list[int]:
    """Count the tokens of each conversation, through the chat template, or of each text."""
    texts = [
        turns if isinstance(turns, str) else templated(tokenizer, turns, tokenize=False, **template_args)
        for turns in conversations
    ]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    # A text is given an end.
    return [len(row) + isinstance(turns, str) for row, turns in zip(ids, conversations, strict=True)]


def _with_loss(row: Mapping[str, Any], tokenizer: Any, values: Mapping[str, Any]) -> list[bool]:
    """Tell which tokens of a row carry loss in `SFTTrainer`, uncut."""
    turns = _turns(row)
    if isinstance(turns, str):
        return [True] * (len(tokenizer(turns, add_special_tokens=False)["input_ids"]) + 1)
    whole = tokenizer.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=values["assistant_only_loss"]
    )
    mask = [True] * len(whole["input_ids"])
    if values["assistant_only_loss"]:
        mask = [bool(bit) for bit in whole["assistant_masks"]]
    if "completion" in row and values["completion_only_loss"] is not False:
        start = _prompt_tokens(row["prompt"], row["completion"], tokenizer)
        mask[:start] = [False] * start
    return mask


def _prompt_tokens(prompt: Any, answer: Any, tokenizer: Any) -> int:
    """Count the tokens that prompt and whole row begin with alike: behind them TRL has the answer begin."""
    alone = tokenizer.apply_chat_template(prompt, tokenize=True, return_dict=True, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*prompt, *answer], tokenize=True, return_dict=True)
    same = 0
    for mine, its in zip(alone["input_ids"], whole["input_ids"], strict=False):
        if mine != its:
            break
        same += 1
    return same
