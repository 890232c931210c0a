"""One loaded model that answers many requests at a time: `polm serve` and `polm chat` both talk to this.

One thread owns the model. Requests that wait are answered together, by one `Generator` of ONNX Runtime GenAI with a row
for each; rows that end leave, and while a group is drawn a second one may begin, step by step beside it, so that a
short answer does not wait for a long one. ONNX Runtime GenAI has an `Engine` of its own as well. It answers rightly,
but with the graphs that `export_onnx` writes it batches four requests, whatever it is told, and for more it wants a
paged cache, which these graphs do not have: 16 rows at once give 1.6 times its tokens (docs/serving.md).
"""

import contextlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.serving.answer import Answer, Piece, Sampling
from tasks.export import genai
from tasks.stage.errors import DataError, ModelError

log = logging.getLogger("polm")
GROUPS = 2
"""Groups that are drawn side by side."""
COLD = 1e-4
"""Temperatures below are 0: logits divided by less may overflow."""
NARROW = 1e-6
"""A nucleus below holds the likeliest token alone; 32 bits would make 0 of some, which ONNX Runtime GenAI ignores."""


class Engine:
    """A model, its tokenizer and the thread that answers."""

    def __init__(self, folder: Path, *, batch: int, threads: int | None = None) -> None:
        """Load the model and start the thread.

        Args:
            folder: an ONNX Runtime GenAI folder.
            batch: most requests that are answered together.
            threads: of ONNX Runtime; None leaves it to ONNX Runtime, which takes every core.

        Raises:
            ModelError: no model there, or an unreadable one.
        """
        model, self._tokenizer = genai.load(folder, threads)
        self.context = genai.context_length(folder)
        self._drops_space = genai.drops_space(folder)
        settings = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        self._vocabulary = int(settings["model"]["vocab_size"])
        self._ends = {int(i) for i in self._tokenizer.eos_token_ids}
        self._inbox: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, args=(model, batch), name="engine", daemon=True)
        self._thread.start()

    def encode(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, up to where the assistant begins. Raises ModelError: the template refuses it."""
        with self._lock:
            return genai.encode(self._tokenizer, genai.render(self._tokenizer, messages))

    def submit(self, ids: Sequence[int], sampling: Sampling, emit: Callable[[Piece], None]) -> Answer:
        """Let a prompt be answered.

        Args:
            ids: the prompt.
            sampling: how.
            emit: called with every piece, in the engine's thread: it must not block.

        Raises:
            DataError: prompt and answer are longer than the context.
            ModelError: the engine is closed.
        """
        if len(ids) + sampling.max_new_tokens > self.context:
            raise DataError(
                f"{len(ids)} tokens of messages and {sampling.max_new_tokens} of the answer are more than the model's "
                f"context of {self.context}; shorten one of them"
            )
        if sampling.top_k is not None:  # beyond the vocabulary ONNX Runtime GenAI reads what is not there
            sampling = replace(sampling, top_k=min(sampling.top_k, self._vocabulary))
        with self._lock:
            if self._closed:
                raise ModelError("this model is no longer served; ask again")
            answer = Answer(ids, sampling, emit, genai.Stream(self._tokenizer, self._drops_space))
            self._inbox.put(answer)
        return answer

    def close(self) -> None:
        """Refuse new requests, finish those on their way, and free the model. Waits for it."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._inbox.put(None)
        self._thread.join()

    def _work(self, model: Any, batch: int) -> None:
        groups: list[_Group] = []
        waiting: list[Answer] = []
        closing = False
        while not closing or waiting or groups:
            closing = self._take(waiting, closing, idle=not groups and not waiting)
            if waiting and len(groups) < GROUPS:
                chosen = together(waiting, batch - sum(group.size for group in groups), self.context)
                waiting = [answer for answer in waiting if answer not in chosen]
                groups += [_Group(model, self._tokenizer.pad_token_id, chosen)] if chosen else []
            for group in groups:
                group.step(self._ends)
            groups = [group for group in groups if group.size]

    def _take(self, waiting: list[Answer], closing: bool, *, idle: bool) -> bool:
        """Take what is in the inbox; sleep there when there is nothing else to do. Whether to close."""
        with contextlib.suppress(queue.Empty):
            while not closing:
                answer = self._inbox.get(block=idle and not waiting)
                if answer is None:
                    closing = True
                else:
                    waiting.append(answer)
        for answer in [answer for answer in waiting if answer.cancelled.is_set()]:
            waiting.remove(answer)
            answer.end("cancelled")
        return closing


class _Group:
    """Answers that are drawn together: one `Generator` with a row for each."""

    def __init__(self, model: Any, pad: int, answers: list[Answer]) -> None:
        import numpy as np
        import onnxruntime_genai as og

        self._rows: list[Answer | None] = [*answers]
        width = max(len(answer.ids) for answer in answers)
        prompts = np.full((len(answers), width), pad, dtype=np.int32)
        for row, answer in zip(prompts, answers, strict=True):
            row[: len(answer.ids)] = answer.ids  # padded on the right: on the left, half of the rows would be wrong
        params = og.GeneratorParams(model)
        longest = width + max(answer.sampling.max_new_tokens for answer in answers)
        try:
            params.set_search_options(batch_size=len(answers), max_length=longest, **_search(answers[0].sampling))
            self._generator = og.Generator(model, params)
            self._generator.append_tokens(prompts)
        except Exception:  # whatever it is, it must not end the thread that everybody's answers come from
            self._fail()

    @property
    def size(self) -> int:
        """Answers that have not ended."""
        return sum(answer is not None for answer in self._rows)

    def step(self, ends: set[int]) -> None:
        """Draw a token for every row."""
        if not self.size:
            return
        try:
            self._generator.generate_next_token()
            tokens = [int(token) for token in self._generator.get_next_tokens()]
            for number, (answer, token) in enumerate(zip(self._rows, tokens, strict=True)):
                if answer is not None and answer.take(token, ends):
                    self._rows[number] = None
        except Exception:
            self._fail()

    def _fail(self) -> None:
        log.exception("the model failed with %d requests on their way", self.size)
        for answer in self._rows:
            if answer is not None:
                answer.end("failed")
        self._rows = []


def together(waiting: Sequence[Answer], room: int, context: int) -> list[Answer]:
    """Which answers to draw at once: the oldest, and others drawn in the same way that fit beside it.

    Args:
        waiting: the oldest first.
        room: most of them.
        context: of the model; the longest prompt and the longest answer of a group must fit into it.
    """
    chosen: list[Answer] = []
    width = length = 0
    for answer in waiting:
        if len(chosen) >= room or (chosen and not _alike(chosen[0].sampling, answer.sampling)):
            continue
        wider = max(width, len(answer.ids)), max(length, answer.sampling.max_new_tokens)
        if sum(wider) <= context:
            chosen.append(answer)
            width, length = wider
    return chosen


def _alike(one: Sampling, other: Sampling) -> bool:
    """A seed is for one answer alone: its draw would depend on its neighbours."""
    if one.seed is not None or other.seed is not None:
        return False
    return (one.temperature, one.top_p, one.top_k) == (other.temperature, other.top_p, other.top_k)


def _search(sampling: Sampling) -> dict[str, Any]:
    """Return the sampling in ONNX Runtime GenAI's words; nothing is left to the model's own settings."""
    if sampling.temperature < COLD or (sampling.top_p is not None and sampling.top_p < NARROW):
        return genai.SEARCH
    given = {"top_p": sampling.top_p, "top_k": sampling.top_k, "random_seed": sampling.seed}
    drawing = {"do_sample": True, "temperature": sampling.temperature}
    return genai.SEARCH | drawing | {key: value for key, value in given.items() if value is not None}
