"""Alignment in the language model's embedding space: what the encoder sees becomes vectors that the model can read.

The usual first phase trains the projector by the language model's own loss, with everything else frozen. On a small
budget that leaves the model blind while the loss falls: it learns what answers look like, and the pictures stay noise
to it. Here encoder and projector are trained as a classifier whose last layer is the language model's own embedding
matrix: the projected features of a picture, averaged, have to be nearest to the embedding of the picture's label. So
the tokens that a picture becomes mean to the model what the label's own tokens mean, before it has read one of them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tasks.multimodal.settings import Augmentation


def class_vectors(model: Any, tokenizer: Any, labels: Sequence[str]) -> torch.Tensor:
    """Return the embeddings of the labels, `[labels, width]`: the mean over the tokens of each."""
    table = model.get_input_embeddings().weight.detach()
    ids = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
    return torch.stack([table[row].mean(dim=0) for row in ids])


def alike(vectors: torch.Tensor) -> tuple[int, int] | None:
    """Return the numbers of two labels with one embedding, which no picture can be told apart by; None without any."""
    near = torch.cdist(vectors, vectors) < 1e-6 * vectors.norm(dim=1).mean()
    pairs = near.triu(diagonal=1).nonzero()
    return (int(pairs[0][0]), int(pairs[0][1])) if len(pairs) else None


def scores(model: Any, pixels: torch.Tensor, space: "Space") -> torch.Tensor:
    """Score labels, `[batch, labels]`, by pictures, `[batch, 3, height, width]`."""
    return space.nearness(model.get_image_features(pixels).pooler_output)


def encoded(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the encoder alone makes of `pixels`, as the projector takes it: `[batch, cells, width]`."""
    feature_map: torch.Tensor = model.model.vision_tower(pixels).last_hidden_state
    return feature_map.flatten(2).permute(0, 2, 1)


class Space:
    """Labels in the embedding space, and how near to each of them a picture is.

    Without a temperature, nearness is the dot product, the score that the language model's own head would give. It
    serves a few labels, of a token each. Hundreds of names, of several tokens, share tokens and have one direction in
    common, and long names lie near the middle. There nearness is the cosine of the angle at the middle of all
    embeddings, over the temperature.
    """

    def __init__(self, vectors: torch.Tensor, middle: torch.Tensor, temperature: float | None) -> None:
        """Describe a space.

        Args:
            vectors: of the labels, `[labels, width]`.
            middle: mean of the language model's embeddings, `[width]`.
            temperature: null for the dot product.
        """
        self._middle, self._temperature = middle, temperature
        self._vectors = vectors if temperature is None else self._directions(vectors)

    def _directions(self, points: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(points - self._middle, dim=1)

    def nearness(self, projected: Any) -> torch.Tensor:
        """Score labels, `[batch, labels]`, by what the projector made of pictures, `[batch, cells, width]`."""
        pooled = torch.stack([picture.mean(dim=0) for picture in projected])
        if self._temperature is None:
            return pooled @ self._vectors.T
        return self._directions(pooled) @ self._vectors.T / self._temperature


def augmented(pixels: torch.Tensor, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Move, scale, turn and blur with noise each picture of a batch `[batch, 3, height, width]` in its own way."""
    count, _, height, width = pixels.shape

    def draw(most: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * most

    angle = draw(math.radians(settings.rotation))
    size = 1 + draw(settings.scale)
    across, down = draw(2 * settings.shift / width), draw(2 * settings.shift / height)
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    rows = [torch.stack([cosine, -sine, across], dim=1), torch.stack([sine, cosine, down], dim=1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(pixels, grid.to(pixels), padding_mode="border", align_corners=False)
    return moved + settings.noise * torch.randn(moved.shape, generator=generator).to(pixels)


def batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield `steps` batches of numbers below `count`, by shuffled epochs."""
    left = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(left) < size:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:size]
        left = left[size:]
