"""Requests on their way: how many the server takes, and what has come of each."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.registry.version import TAGS
from flows.serving import json_body, openai_api
from flows.serving.answer import Delta
from flows.serving.chat_request import ChatRequest
from flows.serving.follower import Follower
from flows.serving.media import Media, MediaError, recorded, timed
from flows.serving.metrics import Metrics
from flows.serving.openai_api import RequestError
from flows.serving.traces import Record, Traces
from flows.serving.worker import Event, Rejected, Started, is_last
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
    allow_files: Path | None = None
    """Folder below which requests may name pictures; None allows no file."""


class Admission:
    """Takes requests in, as far as there is room, and leads them to their answers. Lives on the event loop."""

    def __init__(self, follower: Follower, traces: Traces, limits: Limits) -> None:
        self.follower, self.traces, self.limits = follower, traces, limits
        self.metrics = Metrics(follower, traces, lambda: self.in_flight)
        self.in_flight = 0
        """Requests that are being answered or wait."""

    async def open(self, request: ChatRequest, media: Sequence[Media] = ()) -> "RequestState":
        """Begin to answer.

        Args:
            request: the request.
            media: what it shows, from `shown`.

        Raises:
            RequestError: there is no room, or the model cannot take the request.
        """
        room = self.limits.batch + self.limits.queue
        if self.in_flight >= room:
            raise RequestError(
                429, f"{self.in_flight} requests are being answered or wait; ask again", code="queue_full", retry=1
            )
        if request.model is not None:
            self.check(request.model)
        state = RequestState(self, request, media)
        try:
            await state.begin()
        except BaseException as e:
            state.cancel()
            if isinstance(e, RequestError) and e.status >= 500:  # 4xx is a refusal, which is counted where it is sent
                self.close(state, e.status)
            raise
        return state

    async def shown(self, request: ChatRequest) -> list[Media]:
        """Read what a request shows. Raises RequestError when something of it cannot be read."""
        if not any(message.shown() for message in request.messages):
            return []
        try:
            return await asyncio.to_thread(request.media, self.limits.allow_files)
        except MediaError as e:
            raise RequestError(400, str(e), param=e.place, code=e.code) from None

    def check(self, model: str) -> None:
        """Raise RequestError unless this is the name of the registered model, or of the version served now."""
        names = (self.follower.name, self.follower.current.label)
        if model not in names:
            message = f"the model {json_body.shown(model)} is not served here; there is '{names[0]}'"
            raise RequestError(404, message, param="model", code="model_not_found")

    def model(self) -> dict[str, Any]:
        """Describe the registered model in OpenAI's shape, with the version served now and what it was made of."""
        version = self.follower.current
        model = {"id": version.name, "object": "model", "created": 0, "owned_by": "polm", "version": version.version}
        return model | {"alias": self.follower.alias, "tags": {tag: version.tags[tag] for tag in TAGS}}

    def close(self, state: "RequestState", status: int) -> None:
        """Count an answer, whole or given up, and have it traced."""
        state.cancel()
        seconds = time.monotonic() - state.began
        self.metrics.count(status, state.version.version, state.usage, seconds=seconds, first=state.first)
        self.traces.put(state.record())


class RequestState:
    """One request and its answer."""

    def __init__(self, admission: Admission, request: ChatRequest, media: Sequence[Media]) -> None:
        self.name = f"chatcmpl-{uuid.uuid4().hex}"
        self.request = request
        turns = request.turns()
        self._messages = recorded(turns, media)
        self.start = time.time_ns()
        self.began = time.monotonic()
        self.prompt, self.tokens = 0, 0
        self.text = ""
        self.reason: str | None = None
        self.first: float | None = None
        """Seconds until the first text."""
        loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._seconds = admission.limits.timeout
        self._deadline = loop.time() + self._seconds

        def on_event(event: Event) -> None:
            self._events.put_nowait(event)
            if is_last(event):
                admission.in_flight -= 1  # here, and not where the client is served: it may go away before that begins

        def post_event(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens any more
                loop.call_soon_threadsafe(on_event, event)

        try:
            sampling = request.sampling(admission.limits.max_new_tokens)
            self.version, self._number = admission.follower.ask(turns, sampling, post_event, media)
        except ModelError:
            raise RequestError(503, "the model is being loaded again; ask again", retry=5) from None
        admission.in_flight += 1

    def cancel(self) -> None:
        """End the answer; nothing happens when it has ended."""
        self.version.worker.cancel(self._number)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens so far."""
        return openai_api.usage(self.prompt, self.tokens)

    async def begin(self) -> None:
        """Wait until the model has taken the request. Raises RequestError when it does not."""
        event = await self._next()
        if isinstance(event, Rejected):
            code = "context_length_exceeded" if event.too_long else event.code
            raise RequestError(400, event.message, param=event.place, code=code)
        if not isinstance(event, Started):
            raise RequestError(500, "the model failed on this request; ask again", code="model_failed")
        self.prompt = event.prompt
        self._messages = timed(self._messages, event.seconds)

    async def texts(self) -> AsyncIterator[str]:
        """Yield the answer's text as it comes. Raises RequestError when it takes too long or the model fails."""
        while self.reason is None:
            delta = await self._next()
            assert isinstance(delta, Delta)
            self.first = self.first or time.monotonic() - self.began
            self.text += delta.text
            self.tokens = delta.tokens
            self.reason = delta.reason
            if delta.text:
                yield delta.text
        if self.reason not in ("stop", "length"):
            raise RequestError(500, "the model failed on this request; ask again", code="model_failed")

    async def _next(self) -> Event:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._events.get()
        except TimeoutError:
            message = f"no whole answer within {self._seconds:g} s; ask for fewer tokens, or later"
            raise RequestError(504, message, code="timeout") from None

    def record(self) -> Record:
        """Describe the request and its answer for the trace."""
        return Record(
            request=self.name,
            model=self.version.origin,
            messages=self._messages,
            settings=self.request.settings(),
            text=self.text,
            reason=self.reason or "cancelled",
            usage=self.usage,
            start=self.start,
            end=time.time_ns(),
        )
