"""Clips of a digit: what they show, and that only the order of their frames tells which way it goes."""

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tasks.generators import moving
from tasks.generators.digits import SIDE, numbers, picture_of
from tasks.ingestion.videos import VideoSettings, frames

Place = tuple[int, int]
SETTINGS = VideoSettings(fps=moving.RATE, max_frames=moving.FRAMES)


def places(content: bytes, number: int) -> list[Place]:
    """Where the digit is in each frame: pixels from the left and from the top."""
    digit = np.asarray(picture_of(number))
    found = []
    for frame in frames(content, "", SETTINGS, 10_000):
        field = np.asarray(frame)[..., 0]
        spots = [
            (left, top)
            for left in range(SIDE - len(digit) + 1)
            for top in range(SIDE - len(digit) + 1)
            if np.array_equal(field[top : top + len(digit), left : left + len(digit)], digit)
        ]
        assert len(spots) == 1
        found += spots
    return found


@pytest.mark.parametrize("stops", [0, 1, 2])
@pytest.mark.parametrize("way", sorted(moving.WAYS))
def test_a_digit_goes_its_way_and_stops_so_often(way: str, stops: int) -> None:
    path = places(moving.clip(7, way, stops, random.Random(stops)), 7)
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(path)]
    moved = [step for step in steps if step != (0, 0)]
    assert len(path) == moving.FRAMES
    assert len(steps) - len(moved) == stops
    size = moving.PATH // len(moved)
    assert set(moved) == {(moving.WAYS[way][0] * size, moving.WAYS[way][1] * size)}


def test_a_still_clip_does_not_move() -> None:
    assert len(set(places(moving.clip(7, "still", 0, random.Random(0)), 7))) == 1


def films(way: str) -> tuple[Counter[Any], Counter[Any]]:
    """Film one way often, and count the places of each film without their order, and the place in the middle."""
    rng = random.Random(f"films of {way}")
    paths = [places(moving.clip(7, way, rng.randint(0, 2), rng), 7) for _ in range(120)]
    return Counter(tuple(sorted(path)) for path in paths), Counter(path[moving.FRAMES // 2] for path in paths)


def test_neither_the_set_of_frames_nor_the_middle_one_tells_the_way() -> None:
    sets, middles = zip(*(films(way) for way in ("left", "right", "up", "down")), strict=True)
    for one, other in ((sets[0], sets[1]), (sets[2], sets[3])):
        common = sum(count for path, count in one.items() if path in other)
        assert common > 0.8 * one.total(), "a way passes the places of its opposite"
    everywhere = [set(middle) for middle in middles]
    for middle in middles:
        common = sum(count for place, count in middle.items() if all(place in others for others in everywhere))
        assert common > 0.7 * middle.total(), "what is in the middle of one way is in the middle of all"


def test_rows_hold_the_answer_of_their_question_and_of_its_reverse() -> None:
    rows = list(moving.clips("test", ["way", "which", "stops"], 1, 3, 0.02, 0.5))
    assert len(rows) == len(numbers("test", 0.02, 0))
    assert {row["kind"] for row in rows} == {"way", "which", "stops"}
    for row in rows:
        assert row["reply"] == f"{row['answer']}."
        turned = moving.OPPOSITE[row["answer"]] if row["kind"] == "way" else row["answer"]
        assert row["reversed"] == turned


def test_the_same_seed_films_the_same_rows() -> None:
    def drawn(seed: int) -> list[tuple[Any, ...]]:
        rows = moving.clips("test", ["way"], 1, seed, 0.01, 0.2)
        return [
            (row["question"], row["answer"], tuple(places(row["clip"], int(row["group"].split()[1])))) for row in rows
        ]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
