"""Training sequences of pre-training: texts in one stream, or conversations; and in which order they are learnt."""

import math
from typing import Any

from pydantic import Field

from tasks.base_models.tokenizer import END_OF_TEXT
from tasks.stage.config import Strict
from tasks.stage.errors import DataError


class Conversations(Strict):
    """Conversations that are learnt from nothing, the assistant's tokens alone (Cheng et al., arXiv:2406.14491).

    Short ones first: a model learns to copy over few tokens sooner (Li et al., arXiv:2108.06084).
    """

    dataset: str
    """Set of the data artifact that holds them, e.g. `sft`."""
    short_rows: float = Field(gt=0, le=1)
    """Share of the rows, 0 to 1, the shortest, that the first steps take."""
    short_steps: float = Field(ge=0, le=1)
    """Share of the steps, 0 to 1, that take these rows alone."""


def of_texts(tokenizer: Any, texts: list[str], size: int) -> Any:
    """Join all documents to one stream of ids, cut into `[blocks, size]`; the remainder is dropped."""
    import torch

    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    ids = [i for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in (*row, end)]
    return torch.tensor(ids[: len(ids) // size * size], dtype=torch.long).view(-1, size)


def of_conversations(tokenizer: Any, conversations: list[list[dict[str, str]]], size: int) -> tuple[Any, Any]:
    """Tokenise conversations, the shortest first.

    Returns:
        Ids and labels, `[conversations, size]`, padded on the right; a label outside of an answer is -100.

    Raises:
        DataError: a conversation has more tokens than `size`.
    """
    import torch

    made = tokenizer.apply_chat_template(
        conversations, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = sorted(zip(made["input_ids"], made["assistant_masks"], strict=True), key=lambda pair: len(pair[0]))
    if len(pairs[-1][0]) > size:
        raise DataError(f"a conversation has {len(pairs[-1][0])} tokens, and block_size is {size}; raise block_size")
    ids = torch.full((len(pairs), size), tokenizer.pad_token_id, dtype=torch.long)
    labels = torch.full((len(pairs), size), -100, dtype=torch.long)
    for row, (tokens, answers) in enumerate(pairs):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.where(torch.tensor(answers) == 1, torch.tensor(tokens), -100)
    return ids, labels


def batch(blocks: Any, labels: Any, rows: Any, pad: int) -> dict[str, Any]:
    """Take rows, cut to the longest of them. What pads them on the right is seen by no token before it."""
    longest = int((blocks[rows] != pad).sum(1).max())
    return {"input_ids": blocks[rows, :longest], "labels": labels[rows, :longest]}


def order(blocks: int, steps: int, batch_size: int, conversations: Conversations | None, seed: int) -> Any:
    """Shuffle `[steps, batch_size]` block indices by epochs, drawn up front so that a resumed run sees the same."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    first = round(conversations.short_steps * steps) if conversations else 0
    shortest = math.ceil(conversations.short_rows * blocks) if conversations else 0
    drawn = []
    for count, among in ((first, shortest), (steps - first, blocks)):
        needed = count * batch_size
        epochs = [torch.randperm(among, generator=generator) for _ in range(math.ceil(needed / max(among, 1)))]
        drawn += [torch.cat(epochs)[:needed]] if epochs else []
    return torch.cat(drawn).view(steps, batch_size)
