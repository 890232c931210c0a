"""A stage as a task of Ray: the node streams what its shell script says back through a generator.

Ray's own retries are off (`max_retries=0`): it does not know whether a lost task had finished. `polm run` tries again
itself, after it has looked for the result. Ray ends the tasks of a driver that has died.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from flows.runners import travel
from flows.runners.listening import Lines, Lost, Waiting
from flows.runners.local import Job
from flows.runners.settings import Ray, Runners
from tasks.stage.ray_cluster import connected, reason

LOOK = 0.2
"""Seconds to wait for output before the run is asked whether it is to end."""
ASK = 5.0
"""Seconds between two questions about the cluster's nodes, while a task has not started."""
GONE = 10.0
"""Seconds that a cancelled task may take to end, before its worker is killed; its stage then ends by itself."""


def run(job: Job, runners: Runners, settings: Ray, stopping: threading.Event) -> str:
    """Run one stage on a Ray cluster to its end.

    Returns:
        `done`, or `restored` when the DVC remote had the result.

    Raises:
        StageFailed: it failed or took longer than its time, or its node was lost; its task is ended.
        Stopped: `stopping` was set; its task is ended.
        PolmError: the package is missing, or the cluster does not answer.
    """
    return travel.run(job, runners, settings, partial(lines, settings, job.gpu_count), stopping)


def lines(settings: Ray, gpus: int, name: str, script: str) -> Lines:
    """Start a task that runs a script, and yield its output; the task is ended when the generator is closed.

    Args:
        settings: the runner's section.
        gpus: to ask for.
        name: of the task.
        script: for the shell of the node.
    """
    ray = connected(settings.address)

    def on_node(script: str, environment: dict[str, str]) -> Iterator[bytes]:
        # Pickled whole, as it is no module's: the node needs nothing of ours to unpickle it.
        import os
        import select
        import subprocess

        process = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
        assert process.stdout
        try:
            said = b"."
            while said:
                # A cancelled task is interrupted between two steps of Python, not while it waits for output.
                if select.select([process.stdout], [], [], 0.5)[0]:
                    said = os.read(process.stdout.fileno(), 32_768)
                    if said:
                        yield said
        finally:
            process.terminate()  # it ends its own processes, within seconds
            process.wait()

    environment = {key: os.environ[key] for key in settings.environment if key in os.environ}
    task = ray.remote(on_node).options(
        name=name,
        num_cpus=settings.cpus,
        num_gpus=gpus,
        resources=settings.resources or None,
        max_retries=0,
        num_returns="streaming",
    )
    output = task.remote(script, environment)
    wanted = {"CPU": settings.cpus, "GPU": gpus} | settings.resources
    ended = False
    try:
        yield from _said(ray, output, wanted)
        ended = True
    except Lost:
        ended = True
        raise
    finally:
        if not ended:
            _cancel(ray, output)


def _said(ray: Any, output: Any, wanted: dict[str, float]) -> Lines:
    """Yield the output of a task to its end, and why it waits before its first. Raises `Lost` where it fails."""
    started, asked, rest = False, time.monotonic(), b""
    while True:
        if not ray.wait([output], timeout=LOOK)[0]:
            yield None
            if not started and time.monotonic() - asked > ASK:
                yield Waiting(missing(ray.nodes(), wanted) or "Ray: the nodes that have what it asks for are busy")
                asked = time.monotonic()
            continue
        started = True
        try:
            rest += ray.get(next(output))
        except StopIteration:
            return
        except ray.exceptions.RayError as e:
            raise Lost(f"Ray: {reason(e)}") from None
        *whole, rest = rest.split(b"\n")
        yield from (f"{line.decode('utf-8', errors='replace')}\n" for line in whole)


def missing(nodes: list[dict[str, Any]], wanted: dict[str, float]) -> str:
    """Say that no node is large enough for a task; empty where one is.

    Args:
        nodes: as `ray.nodes` lists them.
        wanted: resource to the count that the task asks for.
    """
    asked = {name: count for name, count in wanted.items() if count}
    alive = [node for node in nodes if node["Alive"]]
    if any(all(node["Resources"].get(name, 0) >= count for name, count in asked.items()) for node in alive):
        return ""
    most = {name: max((node["Resources"].get(name, 0) for node in alive), default=0) for name in asked}
    there, asks = (", ".join(f"{name} {count:g}" for name, count in counts.items()) for counts in (most, asked))
    return f"Ray: none of {len(alive)} nodes has {asks}; the most that one has is {there}"


def _cancel(ray: Any, output: Any) -> None:
    """Ask a task to end, wait for it, and kill its worker when it takes too long."""
    for force in (False, True):
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.cancel(output, force=force)
        # Not by the next output: once cancelled, that is said to be there, and taking it waits for the task's end.
        with contextlib.suppress(ray.exceptions.RayError):
            if ray.wait([output.completed()], timeout=GONE)[0]:
                return
