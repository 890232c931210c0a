"""A project with a registry and nothing else, and what asks `polm serve` over it."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.serve import make_registry

MESSAGES: Any = [{"role": "user", "content": "What is 12 + 345?"}]


def make(folder: Path, chat_onnx: Path, database: Path) -> Path:
    """The chat model in fp32 as version 1, the champion, and in int8 as version 2."""
    root = folder / "project"
    (root / ".polm").mkdir(parents=True)
    shutil.copyfile(database, root / ".polm/mlflow.db")
    make_registry(root, [chat_onnx / "fp32", chat_onnx / "int8"])
    return root


def ask(url: str, **changes: Any) -> httpx.Response:
    """One answer, whole."""
    body = {"messages": MESSAGES, "max_tokens": 20, "temperature": 0, **changes}
    return httpx.post(f"{url}/chat/completions", json=body, timeout=60)


def counter(url: str, name: str) -> float:
    """Sum of the metrics whose lines begin so."""
    page = httpx.get(url.replace("/v1", "/metrics")).text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


def wait_for(condition: Any, seconds: float = 60) -> None:
    """Look until it holds, for a minute; for longer where PyTorch is loaded beside a load."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def models_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes that hold a model."""
    found = []
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def leave(url: str, model: psutil.Process, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Ask for 20 long answers, halt the model, do something, and go away.

    Args:
        url: of the server.
        model: its model's process. It stays halted; one answer alone might have ended before that.
        meanwhile: what to do.
    """
    body = {"messages": MESSAGES, "max_tokens": 230, "temperature": 0, "stream": True}

    async def all_of_them() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            request = partial(http.build_request, "POST", "chat/completions", json=body)
            answers = await asyncio.gather(*(http.send(request(), stream=True) for _ in range(20)))
            model.suspend()
            assert {answer.status_code for answer in answers} == {200}
            await asyncio.to_thread(meanwhile)

    asyncio.run(all_of_them())
