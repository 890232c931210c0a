"""Ray: a connection to a cluster, and a stage's pieces of work as its tasks."""

import importlib.metadata
import logging
import os
import platform
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tasks.stage.errors import PolmError

log = logging.getLogger("polm")
T = TypeVar("T")
AHEAD = 3
"""Tasks for each CPU of the cluster that are handed out before the first one's result is taken."""
ANSWER = 10.0
"""Seconds that a cluster may take to answer."""
RETRIES = 3
"""Times that Ray starts a task again whose node or process was lost."""
_connecting = threading.Lock()


def connected(
    address: str, named: str = "the runner's `address:`", environment: Mapping[str, str] | None = None
) -> Any:
    """Return the module `ray`, connected.

    Args:
        address: of the cluster; `auto` is the one of this machine's node.
        named: where the address stands, for the message.
        environment: variables of the tasks.

    Raises:
        PolmError: the package is missing, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError:
        raise PolmError("ray is missing; `pip install 'polm[ray]'`, the cluster's own version") from None
    there = {"env_vars": dict(environment)} if environment else None
    with _connecting:
        if not ray.is_initialized():
            try:
                _reach(address)
                ray.init(address=address, log_to_driver=False, configure_logging=False, runtime_env=there)
            except (OSError, RuntimeError, ValueError) as e:
                raise PolmError(f"Ray at {address}: {reason(e)}; see `ray status`, and {named}") from None
    return ray


def _reach(address: str) -> None:
    """Connect to a host and port and hang up: Ray itself tries for minutes. Raises OSError when nobody answers."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), ANSWER).close()


def reason(error: Exception) -> str:
    """Return the first line of a message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Tasks:
    """A stage's pieces of work on the nodes of a cluster, which have to see its folders at the paths they have here."""

    several = True
    """Whether other processes do the work."""

    def __init__(self, address: str, folder: Path, packages: tuple[str, ...], named: str) -> None:
        """Begin.

        Args:
            address: of the cluster.
            folder: one of this stage alone, which the nodes have to see.
            packages: those that decide the result; their versions have to be the same on all nodes.
            named: where the address stands, for messages.
        """
        self._address = address
        self._places = (Path.cwd(), folder.absolute())
        self._expected = {name: importlib.metadata.version(name) for name in packages}
        self._expected |= {"python": platform.python_version()}
        self._named = named

    def __enter__(self) -> "Tasks":
        """Connect. Raises PolmError."""
        paths = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
        passed = {"PYTHONPATH": paths, "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
        self._ray = connected(self._address, self._named, passed)
        self._counts: Counter[str] = Counter()
        self._remote = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_there)
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._counts:
            pieces = ", ".join(f"{count} on {node}" for node, count in sorted(self._counts.items()))
            log.info("Ray at %s: pieces of work by node: %s", self._address, pieces)
        self._ray.shutdown()  # which ends the tasks that still run

    def each(self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Call a function with each tuple of arguments, and yield what it returns in their order.

        Raises:
            PolmError: a node does not see the folder, or has other versions, or too many were lost. What the function
                raises is raised here.
        """
        ahead = AHEAD * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        running: deque[Any] = deque()
        for arguments in tasks:
            running.append(self._remote.remote(*self._places, self._expected, function, *arguments))
            if len(running) >= ahead:
                yield self._result(running.popleft())
        while running:
            yield self._result(running.popleft())

    def _result(self, output: Any) -> Any:
        try:
            node, result = self._ray.get(output)
        except self._ray.exceptions.RayTaskError as e:
            raise e.cause from None
        except self._ray.exceptions.RayError as e:
            raise PolmError(
                f"Ray at {self._address}: {reason(e)}; nothing was written, so run again once `ray status` shows the "
                f"nodes, or without {self._named}"
            ) from None
        self._counts[node] += 1
        return result


def _there(
    home: Path, folder: Path, expected: Mapping[str, str], function: Callable[..., T], *arguments: Any
) -> tuple[str, T]:
    """Call a function on a node; returns the node's name too. Raises PolmError where it is not fit for it."""
    if not folder.is_dir():
        raise PolmError(
            f"Ray's node {platform.node()} does not see {folder}: the working copy, {home}, has to lie on a file "
            f"system that all nodes have at this path"
        )
    for name, version in expected.items():
        there = platform.python_version() if name == "python" else _version(name)
        if there != version:
            raise PolmError(
                f"Ray's node {platform.node()} has {name} {there or '(missing)'} in {sys.prefix}, and this machine "
                f"{version}: install the same there, `infra/requirements.lock` names it"
            )
    import ray

    os.chdir(home)
    node = f"{platform.node()} ({ray.get_runtime_context().get_node_id()[:8]})"
    return node, function(*arguments)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
