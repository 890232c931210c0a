"""Two short texts in one row: a batch without most of its padding, for the forward passes that score answers.

A rollout's prompts are padded at the left and its answers at the right, so its width is that of the longest prompt and
the longest answer together, and a third of it may be padding. Here each text stands behind the shortest one that is
left, the longest first, in rows of nearly equal length: packing (Krell et al., arXiv:2107.02027) of two. The mask keeps
the two apart and positions start anew, so every token sees what it saw before; the sums come in another order, which
changes the last bits.

Attention of a row twice as wide costs twice as much, and all else less. It pays for texts of some hundred tokens, and
is used only where it saves a tenth of the places.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from tasks.sampling.generate import layers, text_model

WORTHWHILE = 0.9
"""Most places, as a share of those before, at which a batch is folded."""


class Folded(NamedTuple):
    """A batch of `(B, L)` in `R` rows of `W`."""

    ids: Tensor
    """Token ids, `(R, W)`."""
    positions: Tensor
    """Position of each token in its own text, `(R, W)`."""
    mask: Tensor
    """Which token sees which, `(R, 1, W, W)`, bool."""
    places: Tensor
    """Where in `R · W` each token of the batch went, `(B, L)`; 0 for padding."""

    def back(self, values: Tensor) -> Tensor:
        """Put values of `(R, W)` back at the batch's `(B, L)`; those of padding mean nothing."""
        return values.reshape(-1)[self.places]


def can_fold(model: Any) -> bool:
    """Tell whether the model needs a mask and positions and nothing else: full attention, by PyTorch's kernel."""
    inner = text_model(model)
    return inner is not None and inner.config._attn_implementation == "sdpa" and layers(inner) == {DynamicLayer}


def fold(ids: Tensor, attention_mask: Tensor) -> Folded | None:
    """Fold texts `(B, L)` whose tokens, those of `attention_mask`, stand together; None where it does not pay."""
    count = len(ids)
    attention_mask = attention_mask.bool()
    lengths = attention_mask.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    rows = (count + 1) // 2
    first, second = order[:rows], order[rows:].flip(0)
    beside = lengths[first].clone()
    beside[: len(second)] += lengths[second]
    width = int(beside.max())
    if rows * width > WORTHWHILE * ids.numel():
        return None
    start = torch.empty_like(lengths)
    start[first] = torch.arange(rows, device=ids.device) * width
    start[second] = start[first[: len(second)]] + lengths[first[: len(second)]]
    position = (attention_mask.cumsum(1) - 1).clamp(min=0)
    places = (start[:, None] + position) * attention_mask
    texts = torch.arange(1, count + 1, device=ids.device)[:, None].expand_as(ids)

    def spread(values: Tensor) -> Tensor:
        return ids.new_zeros(rows * width).scatter_(0, places[attention_mask], values[attention_mask]).view(rows, width)

    text = spread(texts)
    mask = (text[:, None, :, None] == text[:, None, None, :]).tril()  # padding, text 0, sees padding: none sees nothing
    return Folded(spread(ids), spread(position), mask, places)
