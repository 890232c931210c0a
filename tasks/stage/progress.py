"""Progress of a stage: a bar for a person, or a line of JSON for whoever started the stage.

When the environment names a file in `POLM_EVENTS`, each event is one JSON line appended to it and the flow that started
the stage shows it. Otherwise (`dvc repro`, a stage run by hand) a bar is drawn on standard error.
"""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Reports `done` of `total` steps and the metrics at that step."""

    def __init__(self, name: str | None) -> None:
        """Args: name: what to show; None reports nothing (the other processes of a multi-process launch)."""
        events = os.environ.get("POLM_EVENTS")
        self._name = name
        self._events = Path(events) if events and name else None
        self._bar: Bar | None = None
        if name and not self._events:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, total: int, label: str = "", **metrics: float) -> None:
        """Say that `done` of `total` steps of `label` are finished, with the metrics seen at this step."""
        if self._events:
            event = {"time": time.time(), "done": done, "total": total, "label": label, "metrics": metrics}
            with self._events.open("a", encoding="utf-8") as f:
                f.write(json.dumps(event) + "\n")
        elif self._bar:
            note = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
            description = f"{self._name} {label}".strip()
            if self._task is None:
                self._task = self._bar.add_task(description, total=total, note=note)
            self._bar.update(self._task, completed=done, total=total, description=description, note=note)
