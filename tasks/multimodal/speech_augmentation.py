"""Random changes of sounds while they are learnt: of their samples, and of their spectrograms.

Each sound is changed by a generator of its own, so a run that is resumed hears what it would have heard.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tasks.multimodal.speech_settings import SpeechAugmentation

TELEPHONE = (3_400.0, 4_000.0)
"""Hz between which the band of a telephone ends."""
MASKS = 2
"""Masks of each kind."""
TOP = 8_000.0
"""Hz at which the mel bands of transformers' feature extractors end."""


def changed(samples: Any, rate: int, longest: int, settings: SpeechAugmentation, rng: Any) -> Any:
    """Change the samples of one sound.

    Args:
        samples: `[samples]` (float32).
        rate: samples a second.
        longest: samples beyond which a sound is made neither longer nor later.
        settings: bounds of the changes.
        rng: a `numpy.random.Generator`.

    Returns:
        Another array, of another length.
    """
    longest = max(longest, len(samples))
    speed = 1 + rng.uniform(-settings.speed, settings.speed)
    places = np.linspace(0, len(samples) - 1, max(1, min(longest, int(len(samples) / speed))))
    sound = np.interp(places, np.arange(len(samples)), samples)
    sound[1:] -= rng.uniform(-settings.tilt, settings.tilt) * sound[:-1]
    sound *= rng.uniform(1 - settings.gain, 1) / max(float(np.abs(sound).max()), 1e-6)
    late = min(longest - len(sound), int(rng.uniform(0, settings.offset) * rate))
    sound = np.concatenate([np.zeros(late), sound])
    level = settings.noise * float(rng.choice([0.0, 0.1, 0.4, 1.0]))
    return (sound + level * rng.standard_normal(len(sound))).astype(np.float32)


def masked(
    features: torch.Tensor, lengths: Sequence[int], settings: SpeechAugmentation, rngs: Sequence[Any]
) -> torch.Tensor:
    """Change the spectrograms of sounds.

    Args:
        features: `[sounds, bands, frames]`.
        lengths: frames of each sound, without what pads it.
        settings: bounds of the changes.
        rngs: a `numpy.random.Generator` for each sound.
    """
    _, bands, frames = features.shape
    floor = features.amin(dim=(1, 2))
    stretch = [1 + rng.uniform(-settings.warp, settings.warp) for rng in rngs]
    rows = torch.arange(bands)[None] * torch.tensor(stretch, dtype=features.dtype)[:, None]
    down = (2 * rows / max(bands - 1, 1) - 1)[:, :, None].expand(-1, -1, frames)
    across = torch.linspace(-1, 1, frames, dtype=features.dtype)[None, None].expand(len(rngs), bands, -1)
    grid = torch.stack([across, down], dim=-1)
    warped = torch.nn.functional.grid_sample(features[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
    for sound, low, length, rng in zip(warped, floor, lengths, rngs, strict=True):
        if rng.random() < settings.telephone:
            sound[_band(rng.uniform(*TELEPHONE), bands) :] = low
        for _ in range(MASKS):
            size = int(rng.integers(0, min(settings.bands, bands - 1) + 1))
            start = int(rng.integers(0, bands - size))
            sound[start : start + size] = low
            size = int(rng.integers(0, settings.frames + 1))
            start = int(rng.integers(0, max(1, length)))
            sound[:, start : start + size] = low
    return warped


def _band(frequency: float, bands: int) -> int:
    """Return the number of the first mel band above a frequency (Slaney's scale: linear below 1 kHz)."""

    def mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1_000 else 15 + 27 * float(np.log(hertz / 1_000)) / float(np.log(6.4))

    return int(np.ceil(mel(frequency) / mel(TOP) * bands))
