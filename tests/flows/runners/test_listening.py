"""A job's words taken apart: why it waits, for how long it may, and which line of the log says how it failed."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flows.runners import listening, wire
from flows.runners.listening import Clock, Lines, Queue, Waiting
from flows.runners.local import Job
from tasks.stage.errors import StageFailed


def made(folder: Path, waits: list[str]) -> Job:
    return Job(
        name="left", log=folder / "left.log", events=folder / "left.events", timeout=None, force=False, gpus=(),
        on_start=lambda: None, on_event=lambda _: None, on_wait=waits.append,
    )  # fmt: skip


def said(**message: Any) -> str:
    return f"{wire.MARK}{json.dumps(message)}\n"


def heard(job: Job, lines: Lines, minutes: float | None = None) -> dict[str, Any]:
    return listening.follow(job, Queue(job, minutes), lines, Clock(lambda _: None), threading.Event())


def test_a_reason_to_wait_is_said_once_and_not_for_a_moments_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []
    job = made(tmp_path, waits)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def lines() -> Lines:
        for second, reason in ((0, "Priority"), (5, "Priority"), (6, "Down"), (15, "Down"), (17, "Down"), (30, "Down")):
            now[0] = second
            yield Waiting(reason)
        yield said(part="code")
        yield said(state="done")

    assert heard(job, lines())["state"] == "done"
    assert waits == ["Down"]
    assert job.log.read_text() == "waiting: Down\n"


def test_a_wait_ends_with_its_minutes_and_a_stage_that_runs_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made(tmp_path, [])
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def lines(first: str | None) -> Lines:
        now[0] = 0.0
        yield Waiting("PartitionDown")
        yield first
        now[0] = 121.0
        yield None
        yield said(state="done")

    with pytest.raises(StageFailed, match="longer than the 2 minutes of its runner's `queue_minutes`") as caught:
        heard(job, lines(None), 2)
    assert (caught.value.text, caught.value.retry) == ("error: did not start: PartitionDown", False)
    assert heard(job, lines(said(part="code")), 2)["state"] == "done"


def test_a_failure_names_its_line_also_after_words_of_the_runner_itself(tmp_path: Path) -> None:
    job = made(tmp_path, [])

    def lines() -> Lines:
        yield "waiting: an earlier job of this stage still holds its checkpoints\n"
        yield said(log=True)
        yield "Running stage 'left':\n"
        yield "ValueError: a bug\n"
        yield said(failed={"reason": "failed", "line": 2, "text": "ValueError: a bug", "retry": True})

    with pytest.raises(StageFailed) as caught:
        heard(job, lines())
    assert job.log.read_text().splitlines()[caught.value.line - 1] == "ValueError: a bug"


def test_the_systems_word_for_a_cause_counts_more_than_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "left.log"
    log.write_text("error: unable to write file x: No space left on device\nfatal: unpack-objects failed\n\n")
    assert listening.last_line(log) == (1, "error: unable to write file x: No space left on device")
    log.write_text("a\nb\n\n")
    assert listening.last_line(log) == (2, "b")
    log.write_text("")
    assert listening.last_line(log) == (0, "")
