"""The engine of a model that sees: answers in turn, ends, cancels, and what it refuses."""

import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flows.serving.answer import Sampling
from flows.serving.media import Media, MediaError
from flows.serving.seeing_engine import SeeingEngine
from flows.serving.worker import load
from tasks.export.multimodal_reader import Pictured, Reader
from tasks.export.multimodal_session import Session
from tasks.stage.errors import DataError, ModelError
from tests.support.drawings import drawn, encoded

pytestmark = pytest.mark.slow
ASK: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]}]


def picture(seed: int) -> Media:
    return Media("image", encoded(drawn(seed)), "messages[0].content[0]")


class Heard:
    """What an engine says of one answer."""

    def __init__(self, engine: SeeingEngine, asked: int | Pictured, sampling: Sampling) -> None:
        """Args: asked: a prompt, or the number of the drawing to be asked about."""
        self.text, self.reason, self.ended = "", None, threading.Event()
        prompt = engine.encode(ASK, [picture(asked)]) if isinstance(asked, int) else asked
        self.generation = engine.submit(prompt, sampling, self.hear)

    def hear(self, delta: Any) -> None:
        self.text += delta.text
        self.reason = delta.reason
        if delta.reason:
            self.ended.set()

    def wait(self) -> str:
        assert self.ended.wait(60)
        return self.text


@pytest.fixture(scope="module")
def engine(seeing_onnx: Path) -> SeeingEngine:
    engine = load(seeing_onnx / "fp32", batch=4, threads=1)
    assert isinstance(engine, SeeingEngine)
    return engine


def alone(folder: Path, seed: int, tokens: int) -> str:
    """The greedy answer by the session itself."""
    reader, session = Reader(folder), Session(folder, threads=1)
    prompt = reader.read(ASK, [drawn(seed)])
    answer = [t for t in session.generate(session.embeddings(prompt), max_new_tokens=tokens) if t not in session.ends]
    return reader.decode(answer)


def test_answers_together_are_those_of_each_alone(engine: SeeingEngine, seeing_onnx: Path) -> None:
    """More than are drawn in turn, of many lengths."""
    heard = [Heard(engine, seed, Sampling(6 + seed, 0.0)) for seed in range(9)]
    found = [one.wait() for one in heard]
    assert found == [alone(seeing_onnx / "fp32", seed, 6 + seed) for seed in range(9)]
    assert len(set(found)) > 5, "other pictures, other answers"
    assert all(one.reason in ("stop", "length") for one in heard)


def test_a_cancelled_answer_ends_and_the_next_one_begins(engine: SeeingEngine, seeing_onnx: Path) -> None:
    long = [Heard(engine, seed, Sampling(200, 1.0, seed=1)) for seed in range(6)]
    for one in long:
        one.generation.cancel()
        one.wait()
    assert {one.reason for one in long} <= {"cancelled", "stop", "length"} and long[-1].reason == "cancelled"
    assert Heard(engine, 3, Sampling(8, 0.0)).wait() == alone(seeing_onnx / "fp32", 3, 8)


def test_a_stop_text_and_a_seed(engine: SeeingEngine) -> None:
    whole = Heard(engine, 1, Sampling(12, 0.0)).wait()
    stopped = Heard(engine, 1, Sampling(12, 0.0, stop=(whole[3:5],)))
    assert stopped.wait() == whole[: whole.index(whole[3:5])] and stopped.reason == "stop"
    first, second = (Heard(engine, 1, Sampling(12, 2.0, top_p=0.9, top_k=50, seed=5)).wait() for _ in range(2))
    assert first == second
    assert (
        Heard(engine, 1, Sampling(12, 1e-6)).wait() == Heard(engine, 1, Sampling(12, 1.0, top_p=1e-9)).wait() == whole
    )


def test_what_cannot_be_read_is_refused(engine: SeeingEngine) -> None:
    place = "messages[0].content[0]"
    with pytest.raises(MediaError, match="the picture is no picture of a kind that is read"):
        engine.encode(ASK, [Media("image", b"no picture", place)])
    with pytest.raises(MediaError, match="this model has no ears; send text") as error:
        engine.encode(ASK, [Media("audio", b"", place)])
    assert (error.value.place, error.value.code) == (place, "unsupported_content")
    with pytest.raises(MediaError, match="a text has '<image>'"):
        engine.encode([{"role": "user", "content": "<image>"}])
    prompt = engine.encode(ASK, [picture(1)])
    with pytest.raises(DataError, match=r"tokens of messages and 400 of the answer are more than the model's context"):
        engine.submit(prompt, Sampling(400, 0.0), lambda _: None)


def test_a_failure_ends_one_answer_and_not_the_engine(engine: SeeingEngine, seeing_onnx: Path) -> None:
    """A prompt whose picture is missing, which `encode` never makes."""
    whole = engine.encode(ASK, [picture(1)])
    assert isinstance(whole, Pictured)
    broken = Pictured(whole.ids, whole.image_token_id, whole.pixels[:0])
    heard = Heard(engine, broken, Sampling(4, 0.0))
    assert heard.wait() == "" and heard.reason == "failed"
    assert Heard(engine, 2, Sampling(8, 0.0)).wait() == alone(seeing_onnx / "fp32", 2, 8)


def test_what_has_begun_is_finished_and_nothing_is_taken_after(seeing_onnx: Path) -> None:
    engine = SeeingEngine(seeing_onnx / "int8", batch=2, threads=1)
    heard = [Heard(engine, seed, Sampling(20, 0.0)) for seed in range(4)]
    prompt = engine.encode(ASK, [picture(9)])
    engine.close()
    assert all(one.reason in ("stop", "length") for one in heard)
    with pytest.raises(ModelError, match="no longer served"):
        engine.submit(prompt, Sampling(4, 0.0), lambda _: None)


def test_words_alone_are_answered(engine: SeeingEngine) -> None:
    prompt = engine.encode([{"role": "user", "content": "Hello!"}])
    assert isinstance(prompt, Pictured) and prompt.pixels.shape == (0, 3, 32, 32)
    assert Heard(engine, prompt, Sampling(4, 0.0)).wait()


def test_a_picture_of_any_size_is_taken(engine: SeeingEngine) -> None:
    for size in ((1, 1), (2000, 3), (640, 480)):
        shown = Media("image", encoded(Image.new("RGB", size)), "x")
        assert engine.encode(ASK, [shown]).media.shape == (1, 3, 32, 32)
