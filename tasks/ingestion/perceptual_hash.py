"""Which pictures are the same to the eye: in another encoding, scaled, or slightly brighter.

A picture is reduced to the mean colours of 16 x 16 places, with brightness and contrast taken out. Two pictures are
alike when they differ visibly in few of the 256 places and are about as bright. Likeness is handed on: what resembles
a picture of a family belongs to it, so no order of the rows changes who belongs together.
"""

from collections.abc import Sequence
from typing import Any

GRID = 16
"""Places on each side."""
MOST = 15
"""Most places that may differ."""
CONTRAST = 25
"""Standard deviation of every sketch, in its own units; contrast is scaled to it."""
FLATTEST = 4.0
"""Standard deviation, in levels of 255, below which contrast is no longer scaled up: it would be noise."""
VISIBLE = 16
"""Units of a sketch by which a place has to differ in a colour."""
EXPOSURE = 32.0
"""Levels of 255 by which the mean brightness of two pictures that are alike may differ."""
AT_ONCE = 16
"""Pictures that are compared with all others at once."""
CHUNK = 1024
"""Pictures whose places are compared with those of one at once."""


def sketch(image: Any) -> tuple[Any, float]:
    """Reduce an RGB picture to what it looks like: `[16, 16, 3]` (int8), and its mean brightness, 0 to 255."""
    import numpy as np
    from PIL import Image

    places = np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32)
    mean = float(places.mean())
    scaled = (places - mean) * (CONTRAST / max(float(places.std()), FLATTEST))
    return scaled.clip(-127, 127).round().astype(np.int8), mean


def is_flat(image: Any) -> bool:
    """Whether an RGB picture is of one brightness, but for noise."""
    import numpy as np
    from PIL import Image

    return float(np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32).std()) < FLATTEST


def families(sketches: Sequence[tuple[Any, float]], near: int) -> list[int]:
    """Give each picture the number of the first one in its family, which may be its own.

    Args:
        sketches: of the pictures.
        near: most of the 256 places in which two pictures differ that are alike, up to `MOST`.
    """
    import numpy as np

    if not sketches:
        return []
    order = np.argsort([mean for _, mean in sketches], kind="stable")
    means = np.array([sketches[i][1] for i in order])
    places = np.stack([sketches[i][0] for i in order]).reshape(len(order), GRID * GRID, 3)
    bright, dark = _bits(places[:, :, 1] > VISIBLE // 2), _bits(places[:, :, 1] < -(VISIBLE // 2))
    labels = np.arange(len(order))
    for start in range(0, len(order), AT_ONCE):
        end = min(start + AT_ONCE, len(order))
        last = int(np.searchsorted(means, means[end - 1] + EXPOSURE, side="right"))
        # Where one picture is bright and the other dark they differ: most pairs are told apart by a few bits.
        apart = np.zeros((end - start, last - start), dtype=np.uint16)
        for light, shade in zip(bright, dark, strict=True):
            opposed = light[start:end, None] & shade[None, start:last]
            opposed |= shade[start:end, None] & light[None, start:last]
            apart += np.bitwise_count(opposed)
        for i in range(start, end):
            likely = i + 1 + np.flatnonzero(apart[i - start, i + 1 - start :] <= near)
            likely = likely[(labels[likely] != labels[i]) & (means[likely] - means[i] <= EXPOSURE)]
            for few in range(0, len(likely), CHUNK):
                others = likely[few : few + CHUNK]
                differ = np.abs(places[others].astype(np.int16) - places[i]).max(axis=2) > VISIBLE
                alike = labels[others[differ.sum(axis=1) <= near]]
                if len(alike):
                    labels[np.isin(labels, alike)] = labels[i]
    first: dict[int, int] = {}
    label_of = dict(zip(order.tolist(), labels.tolist(), strict=True))
    return [first.setdefault(label_of[i], i) for i in range(len(order))]


def _bits(flags: Any) -> Any:
    """Pack flags `[pictures, 256]` to words: `[4, pictures]` (uint64)."""
    import numpy as np

    return np.ascontiguousarray(np.packbits(flags, axis=1).view(np.uint64).T)
