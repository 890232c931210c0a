"""Spoken digits: what is said is what the row has, a voice is in one part, and the same calls give the same bytes."""

import hashlib
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile

from tasks.data import Config
from tasks.generators import spoken
from tasks.generators.espeak import Synthesiser
from tasks.ingestion.sources import GeneratorSource
from tasks.stage.artifact import read_jsonl
from tasks.stage.config import load
from tasks.stage.errors import DataError
from tests.conftest import REPO

KINDS: list[Any] = list(get_args(spoken.Kind))
SETTINGS: dict[str, Any] = {
    "part": "test", "kinds": KINDS, "rounds": 3, "seed": 1, "test_share": 0.2, "sum_share": 0.4, "joined_share": 0.3,
    "max_seconds": 3.0,
}  # fmt: skip
SPOKEN_BY_ITSELF = f"""
import hashlib
from tasks.generators import spoken
rows = list(spoken.questions(**{SETTINGS!r}))
print(hashlib.sha256(b"".join(row["clip"] for row in rows)).hexdigest())
"""


def questions(**changes: Any) -> list[dict[str, Any]]:
    return list(spoken.questions(**(SETTINGS | changes)))


def digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(b"".join(row["clip"] for row in rows)).hexdigest()


def samples(row: dict[str, Any]) -> tuple[Any, int]:
    found: tuple[Any, int] = soundfile.read(io.BytesIO(row["clip"]), dtype="float32")
    return found


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return questions()


def test_label_answer_and_text_are_of_what_is_said(rows: list[dict[str, Any]]) -> None:
    asked = Counter(row["kind"] for row in rows)
    assert set(asked) == set(KINDS)
    for row in rows:
        words = row["text"].split()
        digits = [spoken.WORDS.index(word) for word in words if word != "plus"]
        is_sum = "plus" in words
        assert (len(digits), len(words)) == (2, 3) if is_sum else 1 <= len(digits) == len(words) <= 3
        assert row["label"] == (" + " if is_sum else " ").join(map(str, digits))
        assert row["question"] == spoken.QUESTIONS[row["kind"]]
        if row["kind"] == "sum":
            assert is_sum
            assert (row["answer"], row["reply"]) == (str(sum(digits)), f"{row['label']} = {sum(digits)}.")
        else:
            assert row["answer"] == row["reply"] == row["label"]
    by_clip = Counter(row["clip"] for row in rows)
    assert {by_clip[row["clip"]] for row in rows if "plus" in row["text"]} == {2}, "two questions of one clip"
    assert len(by_clip) == asked["transcribe"]


def test_a_clip_is_speech_of_its_length(rows: list[dict[str, Any]]) -> None:
    """More words take longer, no clip is clipped or silent, and its edges are cut down."""
    seconds: dict[int, list[float]] = {}
    for row in rows:
        sound, rate = samples(row)
        level = np.abs(sound)
        assert 0.5 < level.max() < 0.9
        loud = np.flatnonzero(level > 0.05 * level.max())
        assert loud[0] < 0.2 * rate and len(sound) - loud[-1] < 0.3 * rate
        seconds.setdefault(len(row["text"].split()), []).append(len(sound) / rate)
    means = [np.mean(seconds[count]) for count in (1, 2, 3)]
    assert 0.25 < means[0] < means[1] < means[2] < 2.5


def test_other_words_and_other_voices_sound_otherwise() -> None:
    machine = Synthesiser()
    one = machine.say("one", "en-us", "f2", 160, 50)
    two = machine.say("two", "en-us", "f2", 160, 50)
    deep = machine.say("one", "en-us", "m3", 160, 20)
    fast = machine.say("one", "en-us", "f2", 320, 50)
    assert not np.array_equal(one[:2000], two[:2000]) and not np.array_equal(one[:2000], deep[:2000])
    assert len(fast) < 0.8 * len(one)


def test_two_processes_give_the_same_bytes(rows: list[dict[str, Any]]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPOKEN_BY_ITSELF], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONHASHSEED": "7"}, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == digest(rows)


def test_what_was_said_before_changes_nothing(rows: list[dict[str, Any]]) -> None:
    """The library keeps state in static variables: other calls, and calls in between, leave no trace."""
    Synthesiser().say("a sentence that nobody has asked for", "en-gb-scotland", "whisper", 90, 99)
    interrupted = []
    for row in spoken.questions(**SETTINGS):
        interrupted.append(row)
        if len(interrupted) in (3, 20):
            questions(seed=9, rounds=1)
    assert digest(interrupted) == digest(rows)
    assert [{**row, "clip": b""} for row in interrupted] == [{**row, "clip": b""} for row in rows]


def test_a_seed_is_a_drawing_and_rounds_are_clips_of_each_voice(rows: list[dict[str, Any]]) -> None:
    assert digest(questions(seed=2)) != digest(rows)
    clips = {(row["speaker"], row["clip"]) for row in rows}
    assert set(Counter(speaker for speaker, _ in clips).values()) == {3}


def test_no_voice_is_in_both_parts(rows: list[dict[str, Any]]) -> None:
    variants = Synthesiser().variants
    assert len(variants) > 50
    trained, tested = ({*spoken.speakers(variants, part, 0.2, 0)} for part in get_args(spoken.Part))
    assert trained.isdisjoint(tested) and trained | tested == set(variants)
    assert len(tested) / len(variants) == pytest.approx(0.2, abs=0.1)
    assert {row["speaker"] for row in rows} == tested
    assert {row["speaker"] for row in questions(part="train", rounds=1, seed=4)} == trained
    assert {*spoken.speakers(variants, "test", 0.1, 0)} < tested, "a larger share only takes more"
    assert spoken.speakers(variants, "test", 0.0, 0) == []


def test_no_clip_is_longer_than_it_may_be(rows: list[dict[str, Any]]) -> None:
    assert max(len(sound) / rate for sound, rate in map(samples, rows)) > 1.0
    short = questions(max_seconds=1.0)
    assert max(len(sound) / rate for sound, rate in map(samples, short)) <= 1.0
    assert Counter(row["kind"] for row in short) == Counter(row["kind"] for row in questions(max_seconds=1.0))


def test_a_length_that_no_voice_keeps_is_told() -> None:
    with pytest.raises(DataError, match=r"max_seconds is 0.1, and the voice '.*' takes longer for '.*'"):
        questions(max_seconds=0.1, rounds=1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_are_kept(share: float) -> None:
    rows = questions(rounds=1, sum_share=share)
    assert {"plus" in row["text"] for row in rows} == {share == 1.0}
    assert {row["kind"] for row in questions(kinds=["sum"], sum_share=1.0, rounds=1)} == {"sum"}


def test_the_recipes_options_are_the_generators() -> None:
    config = load(REPO / "params/tiny/spoken.yaml", Config)
    sources = [source for source in config.sources.values() if isinstance(source, GeneratorSource)]
    assert {source.generator for source in sources} == {"spoken.questions"}
    assert len({source.options["test_share"] for source in sources}) == 1, "else a voice would be in both parts"
    for source in sources:
        next(spoken.questions(**{**source.options, "rounds": 1}))


def test_the_data_stage_keeps_the_tests_voices_apart(spoken_data: Path) -> None:
    files = ("sft/train", "sft/validation", "eval/transcripts", "eval/spoken_sums")
    voices = {name: {row["voice"] for row in read_jsonl(spoken_data / f"{name}.jsonl")} for name in files}
    trained, validated = voices["sft/train"], voices["sft/validation"]
    assert len(trained) > 20 and len(validated) > 3
    assert trained.isdisjoint(validated), "a voice is learnt, or validated on"
    assert len(voices["eval/transcripts"]) > 5
    assert (trained | validated).isdisjoint(voices["eval/transcripts"] | voices["eval/spoken_sums"])
