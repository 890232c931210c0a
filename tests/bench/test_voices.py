"""Voices: which clips and questions each voice gives, what the data stage makes of them, and the table."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bench import voices
from tasks import data, evaluate
from tasks.stage.config import load
from tests.conftest import REPO

RATE = 8_000


def say(words: list[str]) -> tuple[Any, int]:
    """A tone for each word, its pitch that of the word, with a second of silence before and behind."""
    time = np.arange(RATE // 4) / RATE
    tones = [np.sin(2 * np.pi * (200 + 40 * len(word)) * time) / 2 for word in words]
    silence = np.zeros(RATE)
    return np.concatenate([silence, *tones, silence]).astype(np.float32), RATE


def test_a_voice_is_asked_for_strings_and_sums_and_every_sum_is_transcribed_too(tmp_path: Path) -> None:
    rows = list(voices.rows("flite-awb", say, tmp_path, random.Random(1)))
    transcripts = {row["clip"]: row["answer"] for row in rows if row["set"] == "transcripts"}
    sums = {row["clip"]: row["answer"] for row in rows if row["set"] == "spoken_sums"}
    assert len(transcripts) == voices.CLIPS and 0.2 < len(sums) / voices.CLIPS < 0.8
    assert all(" + " in transcripts[clip] for clip in sums), "who is asked for a sum is asked what was said as well"
    assert all(sum(map(int, transcripts[clip].split(" + "))) == int(answer) for clip, answer in sums.items())
    lengths = {len(said.split()) for clip, said in transcripts.items() if clip not in sums}
    assert lengths == {2, 3}
    for row in rows:
        samples, rate = soundfile.read(tmp_path / row["clip"])
        assert rate == RATE and len(samples) < 1.5 * RATE, "the silence around a clip is cut"


def test_single_words_of_a_person_are_each_said_once_and_make_no_sums(tmp_path: Path) -> None:
    rows = list(voices.rows("person-single", say, tmp_path, random.Random(1)))
    assert [row["answer"] for row in rows] == list("0123456789")
    assert {row["set"] for row in rows} == {"transcripts"}


def test_voices_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "ASTERISK", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    found, missing = voices.voices(random.Random(1))
    assert set(found) == {"person-single", "person-joined"}
    assert missing == ["flite-kal16", "flite-awb", "flite-rms", "flite-slt", "festival-kal"]


def test_a_person_is_joined_with_pauses_and_ends_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "ASTERISK", tmp_path)
    for name, word in {"digits/3": "three", "digits/5": "five", "letters/plus": "plus"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"{name}.wav", *say([word]))
    speak = voices.asterisk(random.Random(1))
    whole, rate = speak(["three", "plus", "five"])
    single = [len(speak([word])[0]) for word in ("three", "plus", "five")]
    assert rate == RATE and sum(single) < len(whole) < sum(single) + 2 * voices.PAUSE * RATE + 1


def test_the_recipe_of_the_voices_is_read_by_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    voices.recipe(tmp_path / "recipe", tmp_path / "clips")
    config = load(tmp_path / "recipe/voices.yaml", data.Config)
    assert set(config.sets) == {"eval:transcripts", "eval:spoken_sums"} and config.sounds is not None
    tasks = load(tmp_path / "recipe/evaluate_voices.yaml", evaluate.Config).own
    assert all((tmp_path / "recipe" / task.file).is_file() for task in tasks)


def test_the_table_has_a_row_for_each_voice(capsys: pytest.CaptureFixture[str]) -> None:
    rate = {"value": 0.25, "low": 0.2, "high": 0.3, "words": 40}
    groups = {"all": rate, "voice=flite-awb": {**rate, "value": 0.125}, "voice=person-single": rate}
    others = {control: {group: {"value": 0.9} for group in groups} for control in ("silence", "noise", "other")}
    score = {"exact_match": {"value": 0.5}}
    sums = {"metrics": score, "groups": {"voice": {"flite-awb": {"exact_match": {"value": 0.75}}}}}
    voices.show({"transcripts": {"word_error_rate": {"own": groups, **others}}, "spoken_sums": sums})
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines == [
        "| all | 40 | 0.250 [0.200, 0.300] | 0.900 | 0.900 | 0.900 | 0.500 |",
        "| flite-awb | 40 | 0.125 [0.200, 0.300] | 0.900 | 0.900 | 0.900 | 0.750 |",
        "| person-single | 40 | 0.250 [0.200, 0.300] | 0.900 | 0.900 | 0.900 | – |",
    ]
