"""The HTTP application of `polm serve`.

POST /v1/chat/completions   whole, or by server-sent events with `stream: true`
GET  /v1/models             the registered model, with the version served now; with an index also as polm-<recipe>-rag
GET  /v1/models/<id>        the same, by its name or its version
GET  /health                200 once it answers; needs no key
GET  /metrics               for Prometheus
"""

import asyncio
import hmac
import os
import re
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.services.loopback import foreign
from flows.serving import chat_parser, json_body, openai_api
from flows.serving.openai_api import Identity, RequestError
from flows.serving.passages import SUFFIX
from flows.serving.request_state import RequestState
from flows.serving.requests import Admission

KEY = "POLM_API_KEY"
"""Environment variable with the key that requests must carry; none is asked for without it."""
READ = ["GET", "HEAD"]
"""Methods of what can be read; load balancers ask with HEAD."""


def build(admission: Admission, key: str | None) -> FastAPI:
    """Build the application. `key` is what requests must carry; None asks for none."""

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
    _refusals(app, admission)

    @app.api_route("/health", methods=READ)
    async def _health() -> Response:
        version = admission.follower.current
        alive = version.worker.alive
        health = {"status": "ok" if alive else "loading", "model": version.label}
        return JSONResponse(health, status_code=200 if alive else 503)

    @app.api_route("/v1/models", methods=READ, dependencies=locked)
    async def _models() -> dict[str, Any]:
        return {"object": "list", "data": admission.models()}

    @app.api_route("/v1/models/{name:path}", methods=READ, dependencies=locked)
    async def _model(name: str) -> dict[str, Any]:
        admission.check(name)
        return admission.model(SUFFIX if name.endswith(SUFFIX) else "")

    @app.api_route("/metrics", methods=READ, dependencies=locked)
    async def _metrics() -> Response:
        return PlainTextResponse(admission.metrics.page(), media_type=admission.metrics.media_type)

    @app.post("/v1/chat/completions", dependencies=locked)
    async def _chat(request: Request) -> Response:
        takes = admission.follower.current.worker.takes
        limit = chat_parser.SHOWING_LIMIT if takes else chat_parser.BODY_LIMIT
        chat_request = chat_parser.parse(await _body(request, limit), limit)
        state = await admission.open(chat_request, await admission.shown(chat_request))
        headers = {"x-request-id": state.name, "x-model-version": state.version.version}
        if chat_request.stream:
            options = chat_request.stream_options
            events = _stream(admission, state, usage=bool(options and options.include_usage))
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        return JSONResponse(await _whole(admission, state, request), headers=headers)

    app.add_middleware(_Slashes)
    return app


class _Slashes:
    """Reads a path as it was meant: clients join a base URL that ends with a slash, and paths that begin with one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer."""
        if scope["type"] == "http":
            scope = {**scope, "path": re.sub("/+", "/", scope["path"]).rstrip("/") or "/"}
        await self._app(scope, receive, send)


def _refusals(app: FastAPI, admission: Admission) -> None:
    """Let the application say no in OpenAI's shape."""

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def _unknown(request: Request, error: Any) -> Response:
        path = request.scope["path"]
        lacks_v1 = any(f"/v1{path}" == route.path for route in app.routes if isinstance(route, Route))
        hint = f"the base URL ends with /v1: ask /v1{path}" if lacks_v1 else "there is POST /v1/chat/completions"
        answer = _refuse(RequestError(error.status_code, f"{request.method} {path} is not known; {hint}"))
        answer.headers.update(error.headers or {})  # of a 405: the methods that there are
        return answer

    @app.exception_handler(RequestError)
    async def _refused(request: Request, error: Any) -> Response:
        admission.metrics.refuse(error.status)
        return _refuse(error)


async def _whole(admission: Admission, state: RequestState, request: Request) -> dict[str, Any]:
    """Wait for the whole answer; give it up when the client goes away."""
    status = 500

    async def read() -> None:
        async for _ in state.texts():
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
        admission.close(state, status)
    more = state.annotations | state.sources
    return openai_api.completion(_identity(state), state.text, str(state.reason), state.usage, more)


async def _stream(admission: Admission, state: RequestState, *, usage: bool) -> AsyncIterator[bytes]:
    """Yield the answer as server-sent events.

    An error after the first event is an event too: the status has been sent.
    """
    identity = _identity(state)
    status = 499
    try:
        yield openai_api.chunk(identity, {"role": "assistant", "content": "", **state.sources}, None)
        async for text in state.texts():
            yield openai_api.chunk(identity, {"content": text}, None)
        if annotations := state.annotations:
            yield openai_api.chunk(identity, annotations, None)
        yield openai_api.chunk(identity, {}, state.reason)
        if usage:
            yield openai_api.chunk(identity, None, None, usage=state.usage)
        status = 200
        yield b"data: [DONE]\n\n"
    except RequestError as e:
        status = e.status
        yield openai_api.event(e.body)
    finally:
        admission.close(state, status)


def _identity(state: RequestState) -> Identity:
    return Identity(state.name, state.version.label, state.version.fingerprint)


async def _body(request: Request, limit: int) -> bytes:
    """Read the body, as far as `parse` needs it to refuse one that is over the limit."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise RequestError(415, f"the body has the content encoding {json_body.shown(coding)}; send it as it is")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                break
    except ClientDisconnect:
        raise RequestError(499, "the client went away") from None
    return bytes(body)


async def _left(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _carries(request: Request, key: str) -> bool:
    """Tell whether the request has the key, in a time that tells nothing of the key."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), os.fsencode(key))


def _refuse(error: RequestError) -> Response:
    headers = {} if error.retry is None else {"Retry-After": str(error.retry)}
    return JSONResponse(error.body, status_code=error.status, headers=headers)
