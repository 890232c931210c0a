"""The traces' spool: nothing that was put into it is lost, and nothing is counted that MLflow has not."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flows.serving import traces as trace_store
from flows.serving.spans import Record
from flows.serving.traces import Traces
from flows.tracking import client

MODEL = {"model_name": "polm-tiny", "model_version": "1", "digest": "d", "export": "e"}


def record(number: int) -> Record:
    usage = {"prompt_tokens": 9, "completion_tokens": number, "total_tokens": 9 + number}
    messages = [{"role": "user", "content": f"{number}? ü\0😀"}]
    now = time.time_ns()
    name = f"chatcmpl-{number:032x}"
    return Record(name, MODEL, messages, {"temperature": 0.5}, "It is 5.", "stop", usage, now, now + 10**9)


def write(*records: Record) -> Traces:
    traces = Traces("tiny")
    for one in records:
        traces.put(one)
    traces.close()
    return traces


def stored() -> list[Any]:
    api = client.client()
    found: list[Any] = api.search_traces([client.experiment_id(api, "tiny")], max_results=500)
    return found


def test_traces_are_written_together_and_whole(tracking: Path) -> None:
    traces = write(*(record(number) for number in range(1, 251)))
    assert (traces.written, traces.failed, traces.dropped, traces.waiting) == (250, 0, 0, 0)
    found = {trace.info.tags["request_id"]: trace for trace in stored()}
    assert len(found) == 250
    trace = found[record(7).request]
    assert (trace.info.trace_id, trace.info.execution_duration) == (f"tr-{7:032x}", 1000)
    assert MODEL.items() <= trace.info.tags.items() and trace.info.state == "OK"
    [span] = trace.data.spans
    assert span.inputs == {"messages": record(7).messages, "temperature": 0.5}
    assert span.outputs["content"] == "It is 5." and span.attributes["completion_tokens"] == 7


def test_what_mlflow_is_away_from_is_written_by_the_next_server(tracking: Path) -> None:
    database = tracking / ".polm/mlflow.db"
    good = database.read_bytes()
    database.write_bytes(b"no database" * 10_000)
    first = write(record(1), record(2))
    assert (first.written, first.failed, first.dropped) == (0, 0, 0) and first.waiting
    database.write_bytes(good)
    second = write(record(3))
    assert (second.written, second.waiting, len(stored())) == (3, 0, 3)


def test_a_file_that_another_server_appends_to_is_left_to_it(tracking: Path) -> None:
    write(record(1))
    path = trace_store.SPOOL / "tiny/1.jsonl"
    with trace_store._locked(path, "xb") as file:
        file.write(_line(record(2)))
        assert write(record(3)).written == 1 and path.exists()
    assert write().written == 1 and not path.exists()
    assert len(stored()) == 3


def test_a_trace_that_is_written_again_is_the_same(tracking: Path) -> None:
    write(record(1))
    write(record(1))
    assert len(stored()) == 1


def test_half_a_line_costs_that_line_alone(tracking: Path) -> None:
    write(record(1))
    (trace_store.SPOOL / "tiny/1.jsonl").write_bytes(
        _line(record(2)) + b"{}\n" + _line(record(3)) + b'{"request": "cha'
    )
    traces = write()
    assert (traces.written, traces.failed, traces.waiting, len(stored())) == (2, 2, 0, 3)


def test_the_disk_is_not_filled(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_store, "ROOM", 2 * len(_line(record(1))))
    monkeypatch.setattr(trace_store, "SECONDS", 60.0)
    traces = write(*(record(number) for number in range(1, 6)))
    assert (traces.written, traces.dropped) == (2, 3)


def _line(one: Record) -> bytes:
    return json.dumps(one.__dict__).encode() + b"\n"
