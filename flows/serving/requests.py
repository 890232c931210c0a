"""The server's desk: how many requests it takes, and each of them from its question to its last piece."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from flows.registry.version import TAGS
from flows.serving import json_body, openai_api
from flows.serving.answer import Piece
from flows.serving.chat_request import ChatRequest
from flows.serving.follower import Follower
from flows.serving.metrics import Metrics
from flows.serving.openai_api import RequestError
from flows.serving.traces import Record, Traces
from flows.serving.worker import Begun, Heard, Refused
from tasks.stage.errors import ModelError


@dataclass(frozen=True)
class Limits:
    """What the server takes on; every value comes from the command line."""

    queue: int
    """Requests that may wait for their turn."""
    batch: int
    """Requests that are answered together."""
    timeout: float
    """Seconds that a request may take, waiting included."""
    max_new_tokens: int
    """Longest answer, in tokens."""


class Desk:
    """Takes requests in, as far as there is room, and leads them to their answers. Lives on the event loop."""

    def __init__(self, follower: Follower, traces: Traces, limits: Limits) -> None:
        self.follower, self.traces, self.limits = follower, traces, limits
        self.metrics = Metrics(follower, traces, lambda: self.taken)
        self.taken = 0

    async def open(self, request: ChatRequest) -> "Exchange":
        """Begin to answer. Raises RequestError when there is no room, or when the model cannot take the request."""
        room = self.limits.batch + self.limits.queue
        if self.taken >= room:
            raise RequestError(
                429, f"{self.taken} requests are being answered or wait; ask again", code="queue_full", retry=1
            )
        if request.model is not None:
            self.check(request.model)
        exchange = Exchange(self, request)
        try:
            await exchange.begin()
        except BaseException as e:
            exchange.cancel()
            if isinstance(e, RequestError) and e.status >= 500:  # 4xx is a refusal, which is counted where it is sent
                self.close(exchange, e.status)
            raise
        return exchange

    def check(self, model: str) -> None:
        """Raise RequestError unless this is the name of the registered model, or of the version served now."""
        names = (self.follower.name, self.follower.current.label)
        if model not in names:
            message = f"the model {json_body.shown(model)} is not served here; there is '{names[0]}'"
            raise RequestError(404, message, param="model", code="model_not_found")

    def model(self) -> dict[str, Any]:
        """The registered model in OpenAI's shape, with the version served now and what it was made of."""
        served = self.follower.current
        shown = {tag: served.tags[tag] for tag in TAGS}
        model = {"id": served.name, "object": "model", "created": 0, "owned_by": "polm", "version": served.version}
        return model | {"alias": self.follower.alias, "tags": shown}

    def close(self, exchange: "Exchange", status: int) -> None:
        """Count an answer, whole or given up, and have it traced."""
        exchange.cancel()
        self.metrics.count(exchange, status)
        self.traces.put(exchange.record())


class Exchange:
    """One request and its answer."""

    def __init__(self, desk: Desk, request: ChatRequest) -> None:
        self.name = f"chatcmpl-{uuid.uuid4().hex}"
        self.request, self.start, self.began = request, time.time_ns(), time.monotonic()
        self.text, self.tokens, self.prompt = "", 0, 0
        self.reason: str | None = None
        self.first: float | None = None
        """Seconds until the first text."""
        loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()
        self._deadline = loop.time() + desk.limits.timeout
        self._seconds = desk.limits.timeout

        def hear(heard: Heard) -> None:
            self._heard.put_nowait(heard)
            if isinstance(heard, Refused) or (isinstance(heard, Piece) and heard.reason is not None):
                desk.taken -= 1  # here, and not where the client is served: it may go away before that begins

        def emit(heard: Heard) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens any more
                loop.call_soon_threadsafe(hear, heard)

        try:
            sampling = request.sampling(desk.limits.max_new_tokens)
            self.served, self._number = desk.follower.ask(request.turns(), sampling, emit)
        except ModelError:
            raise RequestError(503, "the model is being loaded again; ask again", retry=5) from None
        desk.taken += 1

    def cancel(self) -> None:
        """End the answer; nothing happens when it has ended."""
        self.served.worker.cancel(self._number)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens so far."""
        return openai_api.usage(self.prompt, self.tokens)

    async def begin(self) -> None:
        """Wait until the model has taken the request. Raises RequestError when it does not."""
        heard = await self._next()
        if isinstance(heard, Refused):
            code = "context_length_exceeded" if heard.too_long else None
            raise RequestError(400, heard.message, param="messages", code=code)
        if not isinstance(heard, Begun):
            raise RequestError(500, "the model failed on this request; ask again", code="model_failed")
        self.prompt = heard.prompt

    async def pieces(self) -> AsyncIterator[str]:
        """The answer's text as it comes. Raises RequestError when it takes too long or the model fails."""
        while self.reason is None:
            piece = await self._next()
            assert isinstance(piece, Piece)
            self.first = self.first or time.monotonic() - self.began
            self.text, self.tokens, self.reason = self.text + piece.text, piece.tokens, piece.reason
            if piece.text:
                yield piece.text
        if self.reason not in ("stop", "length"):
            raise RequestError(500, "the model failed on this request; ask again", code="model_failed")

    async def _next(self) -> Heard:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._heard.get()
        except TimeoutError:
            message = f"no whole answer within {self._seconds:g} s; ask for fewer tokens, or later"
            raise RequestError(504, message, code="timeout") from None

    def record(self) -> Record:
        """For the trace."""
        settings = self.request.settings()
        reason = self.reason or "cancelled"
        turns, end = self.request.turns(), time.time_ns()
        return Record(self.name, self.served.origin, turns, settings, self.text, reason, self.usage, self.start, end)
