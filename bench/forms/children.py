"""The processes of the forms, and their turns."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]
READ_BYTES = 1 << 30
"""Bytes that one turn of the memory reads."""


@dataclass(frozen=True)
class Form:
    """One row of the table."""

    name: str
    kind: str
    """Runtime: `transformers`, `onnx`, `llama`; or `memory`, which is no row."""
    place: Path
    dtype: str = "float32"
    adapter: Path | None = None
    """Adapter of PEFT, put on the folder and not merged."""

    def size(self) -> int:
        """Count the bytes on disk."""
        paths = [path for place in (self.place, self.adapter) if place for path in (place, *place.rglob("*"))]
        return sum(path.stat().st_size for path in paths if path.is_file())


class Child:
    """The process of a form."""

    def __init__(self, form: Form, threads: int) -> None:
        """Start the process and wait until the model is loaded."""
        self.name = form.name
        words = [sys.executable, "-m", "bench.forms.worker", form.kind, str(form.place), str(threads), form.dtype]
        words += [str(form.adapter)] if form.adapter else []
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads)
        )
        self._read()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let the process do something and wait for its reply."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        with self._process:  # closes the pipes, which ends it, and waits
            pass

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: its process ended with status {self._process.wait()}; see above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment(threads: int) -> dict[str, str]:
    """Write a child's environment: its threads, this repository, no progress bars."""
    path = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}


def batch_of(prompts: Sequence[Sequence[int]], count: int, width: int) -> list[list[int]]:
    """Fill `count` rows of `width` tokens with the held-out prompts, one after the other, cut where a row is full."""
    stream = [token for prompt in prompts for token in prompt]
    start = [(row * width) % len(stream) for row in range(count)]
    return [[stream[(at + i) % len(stream)] for i in range(width)] for at in start]


def take_turns(
    children: dict[str, Child],
    prompts: Sequence[Sequence[int]],
    say: Callable[[str], None],
    *,
    turns: int,
    batches: Sequence[int],
    prompt_tokens: int,
    new_tokens: int,
) -> dict[str, dict[str, list[float]]]:
    """Let every form answer at every batch, one after the other, again and again.

    Returns:
        Tokens/s by form and `prefill_<batch>` or `decode_<batch>`, a figure a turn; and of the form named `memory`, if
        there is one, bytes/s as `read`.
    """
    speeds: dict[str, dict[str, list[float]]] = {name: {} for name in children}
    for turn in range(turns + 1):  # the first one warms up: it is short, and not counted
        width, new = (prompt_tokens, new_tokens) if turn else (16, 2)
        for batch in batches:
            rows = batch_of(prompts, batch, width)
            for name, child in children.items():
                say(f"turn {turn} of {turns}, batch {batch}, {name}")
                times = child.ask("times", rows=rows, new_tokens=new)["times"]
                first = times[1] - times[0]
                rest = times[-1] - times[1]
                figures = {f"prefill_{batch}": batch * width / first, f"decode_{batch}": batch * (new - 1) / rest}
                if name == "memory":
                    figures = {"read": READ_BYTES / first}
                for figure, value in figures.items() if turn else ():
                    speeds[name].setdefault(figure, []).append(value)
    return speeds
