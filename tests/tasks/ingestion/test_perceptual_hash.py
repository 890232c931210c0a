"""Perceptual hash: the same picture in another file is of its family, another picture never is, over many drawings."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tasks.ingestion.perceptual_hash import MOST, VISIBLE, families, sketch
from tests.support.drawings import drawn, encoded, plain

COUNT = 120
DRAWINGS = [drawn(seed, "white" if seed % 3 == 0 else "") for seed in range(COUNT)]


def jpeg(image: Image.Image, quality: int = 80) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def bright(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.1)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded as JPEG": jpeg,
    "encoded as JPEG of low quality": lambda image: jpeg(image, 40),
    "half the size": half,
    "brighter": bright,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "all at once": lambda image: jpeg(bright(half(image))),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_the_same_picture_is_of_its_family(change: str) -> None:
    changed = [CHANGES[change](image) for image in DRAWINGS]
    found = families([sketch(image) for image in [*DRAWINGS, *changed]], 8)
    assert found[COUNT:] == found[:COUNT]


def test_other_pictures_are_of_other_families() -> None:
    assert families([sketch(image) for image in DRAWINGS], MOST) == list(range(COUNT))
    few = [plain(colour) for colour in ("white", "black", "red", "lime", "blue", "yellow", "gray")]
    assert families([sketch(image) for image in few], MOST) == list(range(len(few)))


def test_pages_of_text_are_not_one_another() -> None:
    rng = np.random.default_rng(0)
    pages = []
    for _ in range(40):
        page = np.full((400, 300), 255, dtype=np.uint8)
        for top in range(20, 380, 12):
            ends = np.sort(rng.integers(20, 280, 8))
            for left, right in ends.reshape(4, 2):
                page[top : top + 6, left:right] = np.where(rng.random((6, right - left)) < 0.4, 0, 255)
        pages.append(Image.fromarray(page).convert("RGB"))
    found = families([sketch(page) for page in [*pages, *map(jpeg, pages), *map(half, pages)]], 8)
    assert found == list(range(40)) * 3


def one_by_one(sketches: Sequence[tuple[Any, float]], near: int) -> list[int]:
    """Families by comparing every pair in full."""
    label = list(range(len(sketches)))
    for i, (a, light) in enumerate(sketches):
        for j, (b, other) in enumerate(sketches[:i]):
            places = (np.abs(a.astype(int) - b.astype(int)).max(axis=2) > VISIBLE).sum()
            if places <= near and abs(light - other) <= 32:
                label = [label[j] if x == label[i] else x for x in label]
    return [label.index(x) for x in label]


@pytest.mark.parametrize("near", [0, 3, 8, MOST])
def test_the_short_cut_finds_what_comparing_every_pair_finds(near: int) -> None:
    rng = np.random.default_rng(near)
    sketches = []
    for _ in range(12):
        places, mean = rng.integers(-60, 60, (16, 16, 3)), rng.uniform(100, 140)
        for changed in rng.integers(0, 2 * near + 2, 6):
            copy = places + rng.integers(-8, 9, places.shape)
            at = rng.choice(256, changed, replace=False)
            copy.reshape(256, 3)[at] = rng.integers(-127, 128, (changed, 3))
            sketches.append((copy.clip(-127, 127).astype(np.int8), mean + rng.uniform(-20, 20)))
    expected = one_by_one(sketches, near)
    assert families(sketches, near) == expected
    assert 12 < len(set(expected)) < len(sketches)


def test_families_do_not_depend_on_the_order() -> None:
    pictures = [sketch(image) for seed in range(20) for image in (drawn(seed), jpeg(drawn(seed)), half(drawn(seed)))]
    order = np.random.default_rng(0).permutation(len(pictures)).tolist()
    first, again = families(pictures, 8), families([pictures[i] for i in order], 8)
    together = {frozenset(i for i, family in enumerate(first) if family == f) for f in first}
    assert {frozenset(order[i] for i, family in enumerate(again) if family == f) for f in again} == together
    assert families([], 8) == []
