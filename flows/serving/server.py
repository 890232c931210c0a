"""`polm serve`: an OpenAI-compatible server over the registered model. docs/serving.md is its manual."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable

import uvicorn

from flows import workspace
from flows.services.loopback import is_loopback
from flows.serving.application import KEY, build
from flows.serving.follower import Follower
from flows.serving.requests import Admission, Limits
from flows.serving.traces import Traces
from tasks.stage.errors import ConfigError, GateError

log = logging.getLogger("polm")


def serve(
    alias: str, host: str, port: int, limits: Limits, *, threads: int | None, poll: float, say: Callable[[str], None]
) -> None:
    """Serve the active recipe's model until SIGTERM or SIGINT; what has begun is then finished.

    Args:
        alias: which version: `champion`, `candidate` or `previous`. It is followed when it moves.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        limits: see `Limits`.
        threads: of ONNX Runtime; None takes every core.
        poll: seconds between two looks at the alias.
        say: told the address once requests are answered.

    Raises:
        ConfigError: the port is taken, or others could reach the server and there is no key.
        GateError: nothing is registered under the alias, or passages are to be shown and it has no index.
        ModelError: its model cannot be loaded.
    """
    key = os.environ.get(KEY) or None
    if key is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached by others: set {KEY} to a key that they must send, or leave it"
        )
    if limits.allow_files is not None and not limits.allow_files.is_dir():
        raise ConfigError(f"--allow-files {limits.allow_files}: no such folder; name one with pictures, or leave it")
    log.setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a warning for each part to a client that has just left
    with contextlib.closing(_listen(host, port)) as listener:
        recipe = workspace.active_recipe()
        follower = Follower(recipe, alias, batch=limits.batch, threads=threads, seconds=poll)
        if limits.rag and follower.current.retriever is None:
            follower.close()
            raise GateError(
                f"{follower.current.label} ({alias}) has no index to find passages in: promote a reader that was "
                f"evaluated with one, or serve without --rag"
            )
        traces = Traces(recipe)
        app = build(Admission(follower, traces, limits), key)
        grace = int(limits.timeout) + 5
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=grace)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"
        say(f"{follower.current.label} ({alias}) at {address}, {'with a key' if key else 'without a key'}")
        try:
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn repeats the signal once everything is answered
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            follower.close()
            traces.close()


def _listen(host: str, port: int) -> socket.socket:
    """Bind before the model is loaded: a port that is taken is said at once."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # else a second server could bind the same port while this one loads
        return listener
    except OSError as e:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({e.strerror or e}); choose others with --host, --port"
        ) from e
