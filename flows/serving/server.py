"""`polm serve`: an OpenAI-compatible server over the registered model. docs/serving.md is its manual.

POST /v1/chat/completions   whole, or by server-sent events with `stream: true`
GET  /v1/models             the registered model, with the version served now
GET  /v1/models/<id>        the same, by its name or its version
GET  /health                200 once it answers; needs no key
GET  /metrics               for Prometheus
"""

import asyncio
import contextlib
import hmac
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flows import workspace
from flows.services.loopback import foreign, is_loopback
from flows.serving import chat_request, json_body, openai_api
from flows.serving.follower import Follower
from flows.serving.openai_api import RequestError
from flows.serving.requests import Desk, Exchange, Limits
from flows.serving.traces import Traces
from tasks.stage.errors import ConfigError

log = logging.getLogger("polm")
KEY = "POLM_API_KEY"
"""Environment variable with the key that requests must carry; none is asked for without it."""
READ = ["GET", "HEAD"]
"""Methods of what can be read; load balancers ask with HEAD."""


def build(desk: Desk, key: str | None) -> FastAPI:
    """The application. `key` is what requests must carry; None asks for none."""

    async def local(request: Request) -> None:
        if key is None and (header := foreign(request.headers)) is not None:
            message = f"the header '{header}' is not of this machine, and the server has no key; set {KEY} for others"
            raise RequestError(403, message, code="foreign_request")

    async def authorised(request: Request) -> None:
        if key is not None and not _carries(request, key):
            message = "no valid key; send the header 'Authorization: Bearer KEY'"
            raise RequestError(401, message, code="invalid_api_key")

    app = FastAPI(title="polm", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(local)])
    locked = [Depends(authorised)]
    _refusals(app, desk)

    @app.api_route("/health", methods=READ)
    async def _health() -> Response:
        alive = desk.follower.current.worker.alive
        state = {"status": "ok" if alive else "loading", "model": desk.follower.current.label}
        return JSONResponse(state, status_code=200 if alive else 503)

    @app.api_route("/v1/models", methods=READ, dependencies=locked)
    async def _models() -> dict[str, Any]:
        return {"object": "list", "data": [desk.model()]}

    @app.api_route("/v1/models/{name:path}", methods=READ, dependencies=locked)
    async def _model(name: str) -> dict[str, Any]:
        desk.check(name)
        return desk.model()

    @app.api_route("/metrics", methods=READ, dependencies=locked)
    async def _metrics() -> Response:
        return PlainTextResponse(desk.metrics.page(), media_type=desk.metrics.media_type)

    @app.post("/v1/chat/completions", dependencies=locked)
    async def _chat(request: Request) -> Response:
        asked = chat_request.parse(await _body(request))
        exchange = await desk.open(asked)
        headers = {"x-request-id": exchange.name, "x-model-version": exchange.served.version}
        if asked.stream:
            options = asked.stream_options
            events = _stream(desk, exchange, usage=bool(options and options.include_usage))
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        return JSONResponse(await _whole(desk, exchange, request), headers=headers)

    app.add_middleware(_Slashes)
    return app


class _Slashes:
    """Takes a path as it was meant: clients join a base URL that ends with a slash, and paths that begin with one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer."""
        if scope["type"] == "http":
            scope = {**scope, "path": re.sub("/+", "/", scope["path"]).rstrip("/") or "/"}
        await self._app(scope, receive, send)


def _refusals(app: FastAPI, desk: Desk) -> None:
    """How the application says no."""

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def _unknown(request: Request, error: Any) -> Response:
        path = request.scope["path"]
        known = any(f"/v1{path}" == route.path for route in app.routes if isinstance(route, Route))
        hint = f"the base URL ends with /v1: ask /v1{path}" if known else "there is POST /v1/chat/completions"
        answer = _refuse(RequestError(error.status_code, f"{request.method} {path} is not known; {hint}"))
        answer.headers.update(error.headers or {})  # of a 405: the methods that there are
        return answer

    @app.exception_handler(RequestError)
    async def _refused(request: Request, error: Any) -> Response:
        desk.metrics.refuse(error.status)
        return _refuse(error)


async def _whole(desk: Desk, exchange: Exchange, request: Request) -> dict[str, Any]:
    """The answer in one piece; given up when the client goes away."""
    status = 500

    async def read() -> None:
        async for _ in exchange.pieces():
            pass

    reading = asyncio.ensure_future(read())
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            status = 499
            raise RequestError(499, "the client went away")
        await reading
        status = 200
    except RequestError as e:
        status = e.status
        raise
    finally:
        reading.cancel()
        leaving.cancel()
        desk.close(exchange, status)
    served = exchange.served
    head = (exchange.name, served.label, served.fingerprint)
    return openai_api.completion(*head, exchange.text, str(exchange.reason), exchange.usage)


async def _stream(desk: Desk, exchange: Exchange, *, usage: bool) -> AsyncIterator[bytes]:
    """The answer as server-sent events. An error after the first one is an event too: the status has been sent."""
    served, status = exchange.served, 499
    head = (exchange.name, served.label, served.fingerprint)
    try:
        yield openai_api.chunk(*head, {"role": "assistant", "content": ""}, None)
        async for text in exchange.pieces():
            yield openai_api.chunk(*head, {"content": text}, None)
        yield openai_api.chunk(*head, {}, exchange.reason)
        if usage:
            yield openai_api.chunk(*head, None, None, usage=exchange.usage)
        status = 200
        yield b"data: [DONE]\n\n"
    except RequestError as e:
        status = e.status
        yield openai_api.event(e.body)
    finally:
        desk.close(exchange, status)


async def _body(request: Request) -> bytes:
    """The body, as far as `parse` needs it to refuse a long one."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise RequestError(415, f"the body has the content encoding {json_body.shown(coding)}; send it as it is")
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > chat_request.BODY_LIMIT:
                break
    except ClientDisconnect:
        raise RequestError(499, "the client went away") from None
    return body


async def _left(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _carries(request: Request, key: str) -> bool:
    """Whether the request has the key, found out in a time that tells nothing of it."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), os.fsencode(key))


def _refuse(error: RequestError) -> Response:
    headers = {} if error.retry is None else {"Retry-After": str(error.retry)}
    return JSONResponse(error.body, status_code=error.status, headers=headers)


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
        GateError: nothing is registered under the alias.
        ModelError: its model cannot be loaded.
    """
    key = os.environ.get(KEY) or None
    if key is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached by others: set {KEY} to a key that they must send, or leave it"
        )
    log.setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a warning for each piece to a client that has just left
    with contextlib.closing(_listen(host, port)) as listener:
        recipe = workspace.active_recipe()
        follower = Follower(recipe, alias, batch=limits.batch, threads=threads, seconds=poll)
        traces = Traces(recipe)
        app = build(Desk(follower, traces, limits), key)
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
