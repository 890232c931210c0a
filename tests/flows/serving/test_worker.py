"""The model's own process: what it takes while it closes, and what may not end it."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.serving import worker as worker_module
from flows.serving.answer import Generation, Sampling
from flows.serving.engine import Engine
from flows.serving.worker import Event, Rejected, Worker
from tasks.export import genai
from tests.support.serving import MESSAGES, models_of


def test_an_answer_can_be_cancelled_while_the_process_finishes(chat_onnx: Path) -> None:
    worker = Worker(chat_onnx / "fp32", batch=1, threads=1)
    [model] = models_of(psutil.Process())
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    model.suspend()  # so that all messages wait for it
    for _ in range(8):  # generations that come first: this one would be done in milliseconds
        worker.ask(MESSAGES, Sampling(230, 0.0), lambda _: None)
    number = worker.ask(MESSAGES, Sampling(230, 0.0), events.put)
    closing = threading.Thread(target=worker.close)
    closing.start()
    while not worker._closed:
        pass
    worker.cancel(number)
    model.resume()
    reasons = [getattr(events.get(timeout=60), "reason", None)]
    while reasons[-1] is None:
        reasons.append(getattr(events.get(timeout=60), "reason", None))
    assert reasons[-1] == "cancelled"
    closing.join(60)
    assert not closing.is_alive() and not worker.alive


@pytest.mark.parametrize("owner", [(genai, "encode"), (Engine, "submit")], ids=["tokenizer", "engine"])
def test_text_that_the_model_cannot_take_is_refused_alone(
    chat_onnx: Path, owner: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(chat_onnx / "fp32", batch=1, threads=1)
    generations: dict[int, Generation] = {}
    events: list[Event] = []
    post_event: Callable[[int, Event], None] = lambda number, event: events.append(event)  # noqa: E731

    def odd(*_: Any) -> None:
        raise RuntimeError("odd text")

    with monkeypatch.context() as patch:
        patch.setattr(*owner, odd)
        worker_module._begin(engine, generations, 1, MESSAGES, Sampling(3, 0.0), post_event)
    assert isinstance(events[-1], Rejected) and "odd text" in events[-1].message and not events[-1].too_long
    worker_module._begin(engine, generations, 2, MESSAGES, Sampling(3, 0.0), post_event)
    engine.close()
    assert getattr(events[-1], "reason", None) == "length"
