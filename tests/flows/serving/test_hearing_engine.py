"""The engine of a model that hears: the answers of its session, and what it refuses."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.serving.answer import Delta, Sampling
from flows.serving.hearing_engine import HearingEngine
from flows.serving.media import Media, MediaError
from flows.serving.worker import load
from tasks.export.multimodal_session import Session
from tasks.export.sound_reader import SoundReader
from tests.support.recordings import encoded, played

pytestmark = pytest.mark.slow
RATE = 16_000
PLACE = "messages[0].content[0]"
ASK: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Say it."}]}]


def sound(seed: int, seconds: float = 0.5) -> Media:
    return Media("audio", encoded(played(seed, seconds, RATE), rate=RATE), PLACE)


@pytest.fixture(scope="module")
def engine(hearing_onnx: Path) -> HearingEngine:
    engine = load(hearing_onnx / "fp32", batch=4, threads=1)
    assert isinstance(engine, HearingEngine)
    return engine


def answered(engine: HearingEngine, seeds: list[int]) -> list[str]:
    """Greedy answers to several sounds, asked at once."""
    texts, ends = [""] * len(seeds), [threading.Event() for _ in seeds]

    def listen(number: int, delta: Delta) -> None:
        texts[number] += delta.text
        if delta.reason:
            ends[number].set()

    for i, seed in enumerate(seeds):
        prompt = engine.encode(ASK, [sound(seed, 0.3 + 0.4 * seed)])
        engine.submit(prompt, Sampling(8, 0.0), partial(listen, i))
    assert all(end.wait(60) for end in ends)
    return texts


def test_answers_together_are_those_of_each_alone(engine: HearingEngine, hearing_onnx: Path) -> None:
    reader, session = SoundReader(hearing_onnx / "fp32"), Session(hearing_onnx / "fp32", threads=1)
    expected = []
    for seed in range(6):
        prompt = reader.read(ASK, [played(seed, 0.3 + 0.4 * seed, RATE).astype(np.float32)])
        tokens = session.generate(session.embeddings(prompt), max_new_tokens=8)
        expected.append(reader.decode([token for token in tokens if token not in session.ends]))
    assert answered(engine, [*range(6)]) == expected
    assert len(set(expected)) > 3, "other sounds, other answers"


@pytest.mark.parametrize(
    ("media", "code", "message"),
    [
        ([Media("audio", b"no sound", PLACE)], "invalid_audio", "the sound is no sound of a kind that is read"),
        ([sound(1, 0.05)], "invalid_audio", "a sound lasts 50 ms, too short to become a token"),
        ([sound(1), sound(2)], "too_many_sounds", "this model hears one sound in a conversation"),
        ([Media("image", b"", PLACE)], "unsupported_content", "is a picture, and this model has no eyes"),
    ],
)
def test_what_cannot_be_heard_is_refused(engine: HearingEngine, media: list[Media], code: str, message: str) -> None:
    with pytest.raises(MediaError, match=message) as error:
        engine.encode(ASK, media)
    assert (error.value.place, error.value.code) == (PLACE, code)


def test_a_text_that_spells_a_sound_is_refused(engine: HearingEngine) -> None:
    with pytest.raises(MediaError, match="a text has '<audio>'"):
        engine.encode([{"role": "user", "content": "<audio>"}])


def test_words_alone_are_read(engine: HearingEngine) -> None:
    prompt = engine.encode([{"role": "user", "content": "Hello!"}])
    assert len(prompt.spectrograms) == 0 and prompt.seconds == ()
