"""One request on its way: what it is asked with, what it was shown, and what has come of it."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from flows.serving import openai_api
from flows.serving.answer import Delta
from flows.serving.chat_request import ChatRequest
from flows.serving.follower import Follower, LoadedVersion
from flows.serving.grounded import Grounded
from flows.serving.media import Media, recorded, timed
from flows.serving.openai_api import RequestError
from flows.serving.passages import Retrieval
from flows.serving.spans import Record
from flows.serving.worker import Event, Rejected, Started, is_last
from tasks.stage.errors import DataError, ModelError


class RequestState:
    """A request and its answer. Lives on the event loop."""

    def __init__(
        self,
        request: ChatRequest,
        media: Sequence[Media],
        follower: Follower,
        *,
        retrieval: Retrieval | None,
        longest: int,
        seconds: float,
        leave: Callable[[], None],
    ) -> None:
        """Take a request in.

        Args:
            request: the request.
            media: what it shows.
            follower: has the version that answers.
            retrieval: how many passages to find for it; None for none.
            longest: longest answer that the server gives, in tokens.
            seconds: that the request may take, waiting included.
            leave: called once, when nothing more is done for it.
        """
        self.name = f"chatcmpl-{uuid.uuid4().hex}"
        self.request = request
        self._media, self._follower, self._retrieval, self._leave = media, follower, retrieval, leave
        self._turns = request.turns()
        self._messages = recorded(self._turns, media)
        self._sampling = request.sampling(longest)
        self.version: LoadedVersion = follower.current
        self.grounded: Grounded | None = None
        """The passages that the model was shown."""
        self.start = time.time_ns()
        self.began = time.monotonic()
        self.prompt, self.tokens = 0, 0
        self.text = ""
        self.reason: str | None = None
        self.first: float | None = None
        """Seconds until the first text."""
        self._number: int | None = None
        self._left = False
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._seconds = seconds
        self._deadline = self._loop.time() + seconds

    def cancel(self) -> None:
        """End the answer; nothing happens when it has ended."""
        if self._number is None:
            self._end()
        else:
            self.version.worker.cancel(self._number)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens so far."""
        return openai_api.usage(self.prompt, self.tokens)

    @property
    def annotations(self) -> dict[str, Any]:
        """Citations of the answer so far, as fields of its message; nothing where no passage was looked for."""
        form = self.version.retriever.form if self.version.retriever else None
        if self.grounded is None or form is None:
            return {}
        return {"annotations": openai_api.annotations(self.text, form, self.grounded.sources)}

    @property
    def sources(self) -> dict[str, Any]:
        """The passages that were shown, as a field of the answer's message; nothing where none was looked for."""
        return {} if self.grounded is None else {"sources": [source.record() for source in self.grounded.sources]}

    async def begin(self) -> None:
        """Find the passages, if any are wanted, and wait until the model has taken the request.

        Raises:
            RequestError: it does not.
        """
        while True:
            self.version = version = self._follower.current
            try:
                turns = await self._with_passages(version)
                self._number = version.worker.ask(turns, self._sampling, self._post_event, self._media)
                break
            except ModelError:
                if version is self._follower.current:
                    raise RequestError(503, "the model is being loaded again; ask again", retry=5) from None
                # Another version was promoted between two of the lines above: it answers, with its own index.
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

    async def _with_passages(self, version: LoadedVersion) -> list[dict[str, Any]]:
        """Put passages into the user's last turn, where the request wants them.

        Raises:
            RequestError: the version has no index, the request wants too many passages, or the search takes too long.
            ModelError: the version is closed, or its index has died.
        """
        if self._retrieval is None:
            return self._turns
        passages = self._retrieval.passages(version)
        assert version.retriever is not None
        at = max(number for number, turn in enumerate(self._turns) if turn["role"] == "user")
        question = self._turns[at]
        try:
            async with self._in_time():
                self.grounded = await asyncio.wrap_future(version.retriever.ground(question["content"], passages))
        except DataError as e:
            raise RequestError(400, str(e), param="messages") from None
        return [*self._turns[:at], {**question, "content": self.grounded.prompt}, *self._turns[at + 1 :]]

    async def _next(self) -> Event:
        async with self._in_time():
            return await self._events.get()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Raise RequestError when the deadline comes."""
        try:
            async with asyncio.timeout_at(self._deadline):
                yield
        except TimeoutError:
            message = f"no whole answer within {self._seconds:g} s; ask for fewer tokens, or later"
            raise RequestError(504, message, code="timeout") from None

    def _post_event(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens any more
            self._loop.call_soon_threadsafe(self._on_event, event)

    def _on_event(self, event: Event) -> None:
        self._events.put_nowait(event)
        if is_last(event):
            self._end()  # here, and not where the client is served: it may go away before that begins

    def _end(self) -> None:
        if not self._left:
            self._left = True
            self._leave()

    def record(self) -> Record:
        """Describe the request and its answer for the trace."""
        retrieval = None
        if self.grounded is not None:
            marks = [annotation["source"]["number"] for annotation in self.annotations["annotations"]]
            retrieval = self.sources | {"seconds": dict(self.grounded.seconds), "cited": list(dict.fromkeys(marks))}
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
            retrieval=retrieval,
        )
