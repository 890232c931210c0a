"""Controls: another row's picture never has the row's own answer, and what shows nothing is seeded and of the size."""

import random
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from tasks.multimodal.controls import HEARD, SHOWN, Control, muted, other_rows, reordered, replaced, resampled


@pytest.mark.parametrize("seed", range(5))
def test_the_other_picture_has_another_answer_and_is_of_the_group(seed: int) -> None:
    rng = random.Random(seed)
    groups = [rng.choice(["sum", "which"]) for _ in range(200)]
    answers = [rng.choice(["1", "2", "3", "4"]) for _ in range(200)]
    names = [f"row {i}" for i in range(200)]
    other = other_rows(names, groups, answers, seed)
    assert all(j is not None and groups[j] == groups[i] and answers[j] != answers[i] for i, j in enumerate(other))
    assert len(set(other)) > 80, "many pictures are shown, and not one to all"
    assert other == other_rows(names, groups, answers, seed)
    assert other != other_rows(names, groups, answers, seed + 1)


def test_the_other_picture_does_not_hang_on_the_order_of_the_rows() -> None:
    names, groups, answers = list("abcdef"), ["g"] * 6, ["1", "2", "3", "1", "2", "3"]
    forth = [names[j] for j in other_rows(names, groups, answers, 0) if j is not None]
    back = [names[::-1][j] for j in other_rows(names[::-1], groups, answers[::-1], 0) if j is not None]
    assert forth == back[::-1]


def test_answers_that_differ_in_case_alone_are_one_answer() -> None:
    assert other_rows(list("abc"), ["g"] * 3, ["Yes", " yes", "no"], 0)[:2] == [2, 2]


def test_a_row_without_another_answer_has_no_other() -> None:
    assert other_rows(list("xyz"), ["a", "a", "b"], ["1", "1", "2"], 0) == [None, None, None]


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffled_clip_shows_neither_its_own_order_nor_the_reverse(seed: int) -> None:
    frames = ["a", "b", "b", "c"]
    shuffled = reordered(frames, "shuffled", seed, "row")
    assert shuffled is not None and sorted(shuffled) == frames and shuffled not in (frames, frames[::-1])
    assert shuffled == reordered(frames, "shuffled", seed, "row")


@pytest.mark.parametrize("frames", [["a"], ["a", "a", "a"], ["a", "b"], ["a", "b", "b"]])
def test_a_clip_that_has_no_third_order_is_not_shuffled(frames: list[str]) -> None:
    possible = len(set(frames)) > 1 and len(frames) > 2
    assert (reordered(frames, "shuffled", 0, "row") is not None) == possible


def test_one_frame_is_the_one_in_the_middle_and_the_reverse_is_the_reverse() -> None:
    frames = ["a", "b", "c", "d", "e"]
    assert reordered(frames, "repeated", 0, "row") == ["c"] * 5
    assert reordered(frames, "reversed", 0, "row") == ["e", "d", "c", "b", "a"]
    assert reordered(["a", "a"], "repeated", 0, "row") is None


def test_a_clip_of_another_length_is_taken_evenly() -> None:
    assert resampled(["a", "b", "c", "d", "e"], 3) == ["a", "c", "e"]
    assert resampled(["a", "b"], 4) == ["a", "a", "b", "b"]
    assert resampled(["a", "b"], 1) == ["a"]


def test_noise_is_still_noise_when_a_large_picture_is_scaled_down() -> None:
    noise = replaced(Image.new("RGB", (640, 480)), "noise", 0, "row")
    assert noise.size == (640, 480)
    assert np.asarray(noise.resize((32, 32), Image.Resampling.BOX)).std() > 50


def test_black_is_black_and_of_the_size() -> None:
    shown = replaced(Image.new("RGB", (7, 5), "white"), "black", 0, "row")
    assert (shown.size, shown.mode, shown.getextrema()) == ((7, 5), "RGB", ((0, 0),) * 3)


def test_noise_is_of_the_size_and_each_rows_own() -> None:
    picture = Image.new("RGB", (32, 30), "white")
    first, again, row, seed = (
        np.asarray(replaced(picture, "noise", *numbers)) for numbers in ((1, "a"), (1, "a"), (1, "b"), (2, "a"))
    )
    assert first.shape == (30, 32, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, row)
    assert not np.array_equal(first, seed)
    assert 120 < first.mean() < 135, "over the whole range"
    assert (first[..., 0] != first[..., 1]).mean() > 0.9, "in every colour"


def test_a_muted_sound_is_as_long_and_says_nothing() -> None:
    sound = (0.3 * np.sin(np.arange(8_000) / 9)).astype(np.float32)
    silence = muted(sound, "silence", 0, "row")
    assert (silence.shape, silence.dtype, np.abs(silence).max()) == (sound.shape, np.float32, 0.0)
    first, again, row, seed = (muted(sound, "noise", *numbers) for numbers in ((1, "a"), (1, "a"), (1, "b"), (2, "a")))
    assert (first.shape, first.dtype) == (sound.shape, np.float32)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, row) and not np.array_equal(first, seed)
    assert np.sqrt(np.mean(first**2)) == pytest.approx(np.sqrt(np.mean(sound**2)), rel=0.05), "as loud"
    assert abs(np.corrcoef(first, sound)[0, 1]) < 0.05
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.05, "white"


def test_every_control_is_of_pictures_or_of_sounds() -> None:
    assert {*HEARD, *SHOWN} == set(get_args(Control))
    assert set(HEARD) & set(SHOWN) == {"noise", "other"}
