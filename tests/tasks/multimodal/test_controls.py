"""Controls: another row's picture never has the row's own answer, and what shows nothing is seeded and of the size."""

import random

import numpy as np
import pytest
from PIL import Image

from tasks.multimodal.controls import other_rows, replaced


@pytest.mark.parametrize("seed", range(5))
def test_the_other_picture_has_another_answer_and_is_of_the_group(seed: int) -> None:
    rng = random.Random(seed)
    groups = [rng.choice(["sum", "which"]) for _ in range(200)]
    answers = [rng.choice(["1", "2", "3", "4"]) for _ in range(200)]
    other = other_rows(groups, answers, seed)
    assert all(groups[j] == groups[i] and answers[j] != answers[i] for i, j in enumerate(other))
    assert len(set(other)) > 80, "many pictures are shown, and not one to all"
    assert other == other_rows(groups, answers, seed)
    assert other != other_rows(groups, answers, seed + 1)


def test_answers_that_differ_in_case_alone_are_one_answer() -> None:
    assert other_rows(["g"] * 3, ["Yes", " yes", "no"], 0)[:2] == [2, 2]


def test_a_row_without_another_answer_shows_its_own() -> None:
    assert other_rows(["a", "a", "b"], ["1", "1", "2"], 0) == [0, 1, 2]


def test_black_is_black_and_of_the_size() -> None:
    shown = replaced(Image.new("RGB", (7, 5), "white"), "black", 0, 0)
    assert (shown.size, shown.mode, shown.getextrema()) == ((7, 5), "RGB", ((0, 0),) * 3)


def test_noise_is_of_the_size_and_each_rows_own() -> None:
    picture = Image.new("RGB", (40, 30), "white")
    first, again, row, seed = (
        np.asarray(replaced(picture, "noise", *numbers)) for numbers in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert first.shape == (30, 40, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, row)
    assert not np.array_equal(first, seed)
    assert 120 < first.mean() < 135, "over the whole range"
    assert (first[..., 0] != first[..., 1]).mean() > 0.9, "in every colour"
