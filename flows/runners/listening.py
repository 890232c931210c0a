"""What a job on another machine says: its log, its progress, the seconds of its parts, why it waits, how it ended."""

import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from flows.runners import node, wire
from flows.runners.local import Job
from tasks.stage.errors import StageFailed, Stopped

_said: set[str] = set()
"""Differences of nodes that were shown already."""
_logger = logging.getLogger("polm")
CLOSE = 8
"""Lines at the end of a log among which the system's own word for a cause counts more than the last line."""
_CAUSE = re.compile(
    r"No space left on device|Disk quota exceeded|Permission denied|Read-only file system|No such file or directory"
    r"|No module named|[Nn]ot found"
)
SHOWN = 10.0
"""Seconds for which a job has to wait for the same reason before a person is told of it."""


@dataclass(frozen=True)
class Waiting:
    """Why a job does not start, or is not heard of, as its engine says it."""

    reason: str


Lines = Generator[str | Waiting | None, None, None]


class Lost(Exception):
    """The engine lost the job: its node died, or somebody else ended it. The message says what the engine knows."""


@dataclass
class Clock:
    """Seconds of each part, which follow each other."""

    tell: Callable[[dict[str, float]], None]
    seconds: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    def ended(self, part: str) -> None:
        """Add the time since the last call to a part."""
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self.since, 3)
        self.since = now
        self.tell(dict(self.seconds))


class Queue:
    """A job's wait for its engine: what it waits for is shown, and it ends when it takes too long."""

    def __init__(self, job: Job, minutes: float | None) -> None:
        """Args: job: the stage; minutes: how long it may wait; None: as long as it takes."""
        self._job, self._minutes = job, minutes
        self._submitted: float | None = None
        self._since = 0.0
        self._reason = self._shown = ""

    def look(self, waiting: Waiting | None, log: TextIO, *, started: bool) -> None:
        """Note what the engine says, or that it says nothing.

        Args:
            waiting: why the job waits; None where the engine has nothing new.
            log: of the stage.
            started: whether the job has said something; it then waits no more, but its engine may be away.

        Raises:
            StageFailed: it has waited too long.
        """
        now = time.monotonic()
        if self._submitted is None:
            self._submitted = now  # to reach an engine takes seconds, and is no wait
        if waiting and waiting.reason != self._reason:
            self._reason, self._since = waiting.reason, now
        if waiting and self._reason != self._shown and now - self._since >= SHOWN:
            self._shown = self._reason
            log.write(f"waiting: {self._reason}\n")
            log.flush()
            self._job.on_wait(self._reason)
        if self._minutes is not None and not started and now - self._submitted > self._minutes * 60:
            log.write(f"error: did not start: {self._reason or 'its engine says nothing'}\n")
            log.flush()
            reason = f"waited longer than the {self._minutes:g} minutes of its runner's `queue_minutes`"
            raise StageFailed(reason, self._job.log, *last_line(self._job.log), retry=False)


def follow(job: Job, queued: Queue, lines: Lines, clock: Clock, stopping: threading.Event) -> dict[str, Any]:
    """Pass on what the job says until it says its result. Raises StageFailed, Stopped and Lost."""
    part, first = "wait", 0
    with job.log.open("a", encoding="utf-8") as log:
        for line in lines:
            if stopping.is_set():
                raise Stopped(f"{job.name}: ended with the run")
            queued.look(line if isinstance(line, Waiting) else None, log, started=part != "wait")
            if isinstance(line, Waiting):
                continue
            message = wire.heard(line) if line is not None else None
            if message is None:
                if line is not None:
                    log.write(line if line.endswith("\n") else f"{line}\n")
                    log.flush()
            elif "event" in message:
                job.on_event(message["event"])
            elif "part" in message:
                clock.ended(part)
                part = message["part"]
                if part == "stage":
                    job.on_start()
            elif "node" in message:
                _name(job, message["node"], log)
            elif "log" in message:
                first = len(job.log.read_bytes().splitlines())
            elif "failed" in message:
                failed = message["failed"]
                clock.ended(part)
                number = first + failed["line"] if failed["line"] else last_line(job.log)[0]
                raise StageFailed(failed["reason"], job.log, number, failed["text"], retry=failed["retry"])
            elif "stopped" in message:
                raise Lost("its engine ended it")
            else:
                clock.ended(part)
                return message
    raise Lost("it ended without a result")


def _name(job: Job, there: dict[str, Any], log: TextIO) -> None:
    """Write into the log which node a stage is on, and there and on the screen in what it differs from this machine."""
    log.write(f"{node.title(there)}\n")
    for text in node.differences(_here(), there):
        log.write(f"warning: {text}\n")
        if text not in _said:
            _said.add(text)
            _logger.warning("%s: node %s: %s", job.name, there["host"], text)
    log.flush()


@functools.cache
def _here() -> dict[str, Any]:
    return node.facts()


def last_line(log: Path) -> tuple[int, str]:
    """Return the number and text of a log's last line that says something, or of one before it that says why."""
    lines = [(number, line.strip()) for number, line in enumerate(log.read_text("utf-8", "replace").splitlines(), 1)]
    said = [(number, line) for number, line in lines if line]
    causes = [(number, line) for number, line in said[-CLOSE:] if _CAUSE.search(line)]
    return (causes or said or [(0, "")])[-1]
