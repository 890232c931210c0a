"""Which requests are taken in: how many, for which model, and with what they show."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.registry.version import INDEX, TAGS
from flows.serving import json_body
from flows.serving.chat_request import ChatRequest
from flows.serving.follower import Follower
from flows.serving.media import Media, MediaError
from flows.serving.metrics import Metrics
from flows.serving.openai_api import RequestError
from flows.serving.passages import SUFFIX, asked_for
from flows.serving.request_state import RequestState
from flows.serving.traces import Traces


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
    rag: bool = False
    """Whether a request that says nothing of it is answered from passages."""
    passages: int | None = None
    """Most passages that a request may be shown; None leaves it to the reader."""


class Admission:
    """Takes requests in, as far as there is room, and leads them to their answers. Lives on the event loop."""

    def __init__(self, follower: Follower, traces: Traces, limits: Limits) -> None:
        self.follower, self.traces, self.limits = follower, traces, limits
        self.metrics = Metrics(follower, traces, lambda: self.in_flight)
        self.in_flight = 0
        """Requests that are being answered or wait."""

    async def open(self, request: ChatRequest, media: Sequence[Media] = ()) -> RequestState:
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
        state = RequestState(
            request,
            media,
            self.follower,
            retrieval=asked_for(request, always=self.limits.rag, allowed=self.limits.passages),
            longest=self.limits.max_new_tokens,
            seconds=self.limits.timeout,
            leave=self._leave,
        )
        self.in_flight += 1
        try:
            await state.begin()
        except BaseException as e:
            state.cancel()
            # A refusal, 4xx or 503, is counted where it is sent; what the model was asked, here.
            if isinstance(e, RequestError) and e.status in (500, 504):
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
        version = self.follower.current
        names = [self.follower.name, version.label, f"{self.follower.name}{SUFFIX}"]
        if model not in names:
            message = f"the model {json_body.shown(model)} is not served here; there is '{names[0]}'"
            raise RequestError(404, message, param="model", code="model_not_found")

    def models(self) -> list[dict[str, Any]]:
        """Describe the names that a request may have: the registered model, and from passages if it has an index."""
        version = self.follower.current
        return [self.model(), *([self.model(SUFFIX)] if version.retriever else [])]

    def model(self, suffix: str = "") -> dict[str, Any]:
        """Describe the registered model in OpenAI's shape, with the version served now and what it was made of."""
        version = self.follower.current
        name = f"{version.name}{suffix}"
        model = {"id": name, "object": "model", "created": 0, "owned_by": "polm", "version": version.version}
        tags = {tag: version.tags[tag] for tag in (*TAGS, INDEX) if tag in version.tags}
        return model | {"alias": self.follower.alias, "tags": tags}

    def close(self, state: RequestState, status: int) -> None:
        """Count an answer, whole or given up, and have it traced."""
        state.cancel()
        seconds = time.monotonic() - state.began
        self.metrics.count(status, state.version.version, state.usage, seconds=seconds, first=state.first)
        if state.grounded is not None:
            self.metrics.retrieved(state.grounded.seconds, len(state.grounded.sources))
        self.traces.put(state.record())

    def _leave(self) -> None:
        self.in_flight -= 1
