"""Every answer as an MLflow trace. A dead MLflow delays and fails no request, and a dead server loses no trace.

An answer is appended to a spool file under `.polm/traces/`, and a thread writes what has gathered there to MLflow, many
traces in one transaction: one by one, SQLite takes ten a second. A file goes when its traces are in MLflow. What a
killed server has left, or one that MLflow was away from, is written by the next. Each server holds a lock on the file
that it appends to. A trace that is written twice is the same trace: its id is that of the answer.
"""

import contextlib
import json
import logging
import threading
import time
import uuid
from dataclasses import asdict
from http.client import BAD_REQUEST
from pathlib import Path
from typing import IO

from flows.serving.spans import Record, spans_of
from flows.tracking import client
from tasks.stage import artifact, locks
from tasks.stage.errors import ArtifactError

log = logging.getLogger("polm")
SPOOL = artifact.STATE / "traces"
ROOM = 256_000_000
"""Bytes that may wait on disk. More are dropped and counted: a disk stays free when MLflow is away for days."""
TOGETHER = 100
"""Traces in one file, and in one transaction."""
SECONDS = 0.5
"""Seconds between two looks at the spool."""
FLUSH_SECONDS = 20.0
"""Seconds that the last traces have when the server ends; later ones stay in the spool."""


class Traces:
    """The spool and the thread that empties it."""

    def __init__(self, recipe: str) -> None:
        """Start the thread. Traces go to the recipe's experiment, beside its runs."""
        self.written, self.dropped, self.failed = 0, 0, 0
        self._recipe = recipe
        self._folder = SPOOL.resolve() / recipe
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._lines = 0
        self._bytes = self.waiting
        self._deadline: float | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Bytes in the spool."""
        return sum(_size(path) for path in self._folder.glob("*.jsonl"))

    def put(self, record: Record) -> None:
        """Have a record written. Waits for the disk's cache at most, never for MLflow; never raises."""
        line = json.dumps(asdict(record)).encode() + b"\n"
        with self._lock:
            try:
                if self._bytes + len(line) > ROOM:
                    raise OSError(f"{self._folder} holds {self._bytes} bytes")
                self._file = self._file or self._begin()
                if self._file.write(line) != len(line):
                    raise OSError(f"no room on the disk of {self._folder}")
                self._bytes += len(line)
                self._lines += 1
                if self._lines == TOGETHER:
                    self._finish()
            except (OSError, ArtifactError) as e:
                self._finish()
                self.dropped += 1
                if self.dropped in (1, 100, 10_000):
                    log.warning("a trace was dropped (%d so far): %s", self.dropped, e)

    def close(self) -> None:
        """Write what waits, as far as `FLUSH_SECONDS` allow."""
        self._deadline = time.monotonic() + FLUSH_SECONDS
        self._end.set()
        self._thread.join(FLUSH_SECONDS + 5)  # a call to a dead MLflow may hang: the thread is left to it
        left = self.waiting
        if self.dropped or self.failed or left:
            log.warning(
                "traces: %d written, %d dropped, %d failed; %d bytes wait in %s for the next `polm serve`",
                self.written,
                self.dropped,
                self.failed,
                left,
                SPOOL,
            )

    def _work(self) -> None:
        troubles = 0
        ending = False
        while not ending:
            ending = self._end.wait(SECONDS * min(troubles + 1, 60))
            try:
                self._empty()
                troubles = 0
            except Exception as e:  # MLflow is away: what waits goes on waiting
                troubles += 1
                if troubles in (1, 10, 100, 1000):
                    log.warning("traces wait in %s: %s", SPOOL, e)

    def _begin(self) -> IO[bytes]:
        """Create a file, locked before another server can find it."""
        path = self._folder / f"{time.time_ns()}-{uuid.uuid4().hex}.new"
        file = _locked(path, "xb")
        path.rename(path.with_suffix(".jsonl"))
        return file

    def _finish(self) -> None:
        """Let go of the file: it may be emptied now. Under the lock."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._lines = 0

    def _empty(self) -> None:
        """Write all files but those that another server appends to. Raises when MLflow is away."""
        with self._lock:
            self._finish()
        for path in sorted(self._folder.glob("*.jsonl")):
            if self._deadline is not None and time.monotonic() > self._deadline:
                break
            with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(path, "rb") as file:
                lines = file.readlines()
                count = self._write(lines)
                path.unlink()
                self.written += count
                self.failed += len(lines) - count
        with self._lock:
            self._bytes = self.waiting

    def _write(self, lines: list[bytes]) -> int:
        """Hand traces to MLflow; return how many it took, for good. Raises when it may take the others later."""
        api = client.client()
        from mlflow.exceptions import MlflowException
        from mlflow.tracing.client import TracingClient

        experiment = client.experiment_id(api, self._recipe)
        try:
            spans = [span for line in lines for span in spans_of(Record(**json.loads(line)))]
            TracingClient(api.tracking_uri).log_spans(experiment, spans)
            return len(lines)
        except (ValueError, TypeError, MlflowException) as e:  # of the former: half a line, as a full disk leaves it
            if isinstance(e, MlflowException) and e.get_http_status_code() != BAD_REQUEST:
                raise
            if len(lines) > 1:
                return sum(self._write([line]) for line in lines)
            log.warning("a trace cannot be written: %s: %s", e, lines[0][:100])
            return 0


def _locked(path: Path, mode: str) -> IO[bytes]:
    """Open a file that no other server has open.

    Raises:
        BlockingIOError: another server has it open.
        ArtifactError: the file system has no locks.
    """
    file: IO[bytes] = path.open(mode, buffering=0)
    try:
        if not locks.acquire(file):
            raise BlockingIOError(f"{path}: another server has it open")
    except BaseException:
        file.close()
        raise
    return file


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
