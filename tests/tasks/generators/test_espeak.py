"""The speech synthesiser: a missing package, and voices that it has not, are said in one line."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tasks.generators.espeak import Synthesiser
from tasks.generators.spoken import ACCENTS
from tasks.stage.errors import DataError
from tests.conftest import REPO

HIDDEN = """
import sys

class Hiding:
    def __init__(self, inner):
        self.inner = inner

    def find_spec(self, name, path=None, target=None):
        return None if name.startswith("espeakng_loader") else self.inner.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
from tasks.generators.espeak import Synthesiser
Synthesiser()
"""
"""A process in which the package is not installed."""


@pytest.fixture(scope="module")
def machine() -> Synthesiser:
    return Synthesiser()


def test_it_says_what_it_is_given(machine: Synthesiser) -> None:
    short, long = (machine.say(text, "en-us", "f2", 160, 50) for text in ("one", "one two three four"))
    assert machine.sampling_rate == 22_050
    assert short.dtype == np.float32 and short.ndim == 1
    assert 0.1 < np.abs(short).max() <= 1.0
    assert len(long) > 2 * len(short) > 0.2 * machine.sampling_rate


def test_each_copy_begins_anew() -> None:
    first, second = Synthesiser(), Synthesiser()
    said = [first.say(word, "en-us", "whisper", 160, 50) for word in ("seven", "eight", "seven")]
    again = [second.say(word, "en-us", "whisper", 160, 50) for word in ("seven", "eight", "seven")]
    assert all(np.array_equal(a, b) for a, b in zip(said, again, strict=True))


def test_accents_and_voices_differ(machine: Synthesiser) -> None:
    """The library says what it is given by its first voice where it has not the one that it is asked for."""
    by_accent = {machine.say("zero three seven", accent, "f2", 160, 50).tobytes() for accent in ACCENTS}
    by_variant = {machine.say("zero three seven", "en-us", name, 160, 50).tobytes() for name in machine.variants[:20]}
    assert len(by_accent) == len(ACCENTS) > 5
    assert len(by_variant) == 20


def test_a_voice_that_there_is_not_is_named(machine: Synthesiser) -> None:
    with pytest.raises(DataError, match=r"espeakng_loader: no voice 'en-us\+nobody'"):
        machine.say("one", "en-us", "nobody", 160, 50)


def test_a_text_that_sounds_of_nothing_is_named(machine: Synthesiser) -> None:
    with pytest.raises(DataError, match=r"'en-us\+f2' says nothing to ' '"):
        machine.say(" ", "en-us", "f2", 160, 50)


def test_a_missing_package_is_said_with_its_remedy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPO)}
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "tasks.stage.errors.DataError: no speech synthesiser: the package espeakng_loader is missing"
    )
    assert last.endswith("`pip install 'polm[speech]'`")
