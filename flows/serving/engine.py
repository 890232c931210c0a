"""One loaded model that answers many requests at a time: `polm serve` and `polm chat` both talk to this.

One thread owns the model. Requests that wait are answered together, by one `Generator` of ONNX Runtime GenAI with a row
for each; rows that end leave, and while a group is drawn a second one may begin, step by step beside it, so that a
short answer does not wait for a long one. ONNX Runtime GenAI has an `Engine` of its own as well. It answers rightly,
but with the graphs that `export_onnx` writes it batches four requests, whatever it is told, and for more it wants a
paged cache, which these graphs do not have: 16 rows at once give 1.6 times its tokens (docs/serving.md).
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.serving.answer import Delta, Generation, Inbox, Sampling
from flows.serving.media import Media, MediaError
from tasks.export import genai

log = logging.getLogger("polm")
GROUPS = 2
"""Groups that are drawn side by side, at most."""
COLD = 1e-4
"""Temperature below which the likeliest token is taken: logits divided by less may overflow."""
NARROW = 1e-6
"""Nucleus below which the likeliest token is taken: 32 bits would make 0 of some, which ONNX Runtime GenAI ignores."""


class Engine:
    """A model, its tokenizer and the thread that answers."""

    takes: str | None = None

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
        self._inbox = Inbox()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, args=(model, batch), name="engine", daemon=True)
        self._thread.start()

    def encode(self, messages: Sequence[Mapping[str, Any]], media: Sequence[Media] = ()) -> list[int]:
        """Token ids of a conversation, up to where the assistant begins.

        Raises:
            MediaError: something is to be seen or heard.
            ModelError: the template refuses the conversation.
        """
        for shown in media:
            what, lack = ("a picture", "eyes") if shown.kind == "image" else ("a sound", "ears")
            message = f"'{shown.place}' is {what}, and this model has no {lack}; send text, or serve one that has"
            raise MediaError(message, shown.place, "unsupported_content")
        with self._lock:
            return genai.encode(self._tokenizer, genai.render(self._tokenizer, messages))

    def submit(self, ids: Sequence[int], sampling: Sampling, on_delta: Callable[[Delta], None]) -> Generation:
        """Let a prompt be answered.

        Args:
            ids: the prompt.
            sampling: how.
            on_delta: called with every part of the answer, in the engine's thread: it must not block.

        Raises:
            DataError: prompt and answer are longer than the context.
            ModelError: the engine is closed.
        """
        if sampling.top_k is not None:  # beyond the vocabulary ONNX Runtime GenAI reads what is not there
            sampling = replace(sampling, top_k=min(sampling.top_k, self._vocabulary))
        with self._lock:
            stream = genai.Stream(self._tokenizer, self._drops_space)
        return self._inbox.put(Generation(ids, sampling, on_delta, stream), self.context)

    def close(self) -> None:
        """Refuse new requests, finish those on their way, and free the model. Waits for it."""
        self._inbox.close()
        self._thread.join()

    def _work(self, model: Any, batch: int) -> None:
        groups: list[_Group] = []
        waiting: list[Generation] = []
        closing = False
        while not closing or waiting or groups:
            closing = self._inbox.collect(waiting, closing, idle=not groups and not waiting)
            if waiting and len(groups) < GROUPS:
                members = together(waiting, batch - sum(group.size for group in groups), self.context)
                waiting = [generation for generation in waiting if generation not in members]
                groups += [_Group(model, self._tokenizer.pad_token_id, members)] if members else []
            for group in groups:
                group.step(self._ends)
            groups = [group for group in groups if group.size]


class _Group:
    """Answers that are drawn together: one `Generator` of ONNX Runtime GenAI with a row for each."""

    def __init__(self, model: Any, pad: int, generations: list[Generation]) -> None:
        import numpy as np
        import onnxruntime_genai as og

        self._rows: list[Generation | None] = [*generations]
        width = max(len(generation.ids) for generation in generations)
        prompts = np.full((len(generations), width), pad, dtype=np.int32)
        for row, generation in zip(prompts, generations, strict=True):
            row[: len(generation.ids)] = (
                generation.ids
            )  # padded on the right: on the left, half of the rows would be wrong
        params = og.GeneratorParams(model)
        longest = width + max(generation.sampling.max_new_tokens for generation in generations)
        try:
            search = _search(generations[0].sampling)
            params.set_search_options(batch_size=len(generations), max_length=longest, **search)
            self._generator = og.Generator(model, params)
            self._generator.append_tokens(prompts)
        except Exception:  # whatever it is, it must not end the thread that everybody's answers come from
            self._fail()

    @property
    def size(self) -> int:
        """Answers that have not ended."""
        return sum(generation is not None for generation in self._rows)

    def step(self, ends: set[int]) -> None:
        """Draw a token for every row."""
        if not self.size:
            return
        try:
            self._generator.generate_next_token()
            tokens = [int(token) for token in self._generator.get_next_tokens()]
            for number, (generation, token) in enumerate(zip(self._rows, tokens, strict=True)):
                if generation is not None and generation.take(token, ends):
                    self._rows[number] = None
        except Exception:
            self._fail()

    def _fail(self) -> None:
        log.exception("the model failed with %d requests on their way", self.size)
        for generation in self._rows:
            if generation is not None:
                generation.end("failed")
        self._rows = []


def together(waiting: Sequence[Generation], room: int, context: int) -> list[Generation]:
    """Choose which answers to draw at once: the oldest, and others drawn in the same way that fit beside it.

    Args:
        waiting: answers to choose from, the oldest first.
        room: most answers to choose.
        context: tokens that the model can see; the longest prompt and the longest answer of a group must fit into it.
    """
    members: list[Generation] = []
    width = length = 0
    for generation in waiting:
        if len(members) >= room or (members and not _alike(members[0].sampling, generation.sampling)):
            continue
        wider = max(width, len(generation.ids))
        longer = max(length, generation.sampling.max_new_tokens)
        if wider + longer <= context:
            members.append(generation)
            width, length = wider, longer
    return members


def _alike(one: Sampling, other: Sampling) -> bool:
    """Tell whether two answers may share a draw. A seeded one may not: its draw would depend on its neighbours."""
    if one.seed is not None or other.seed is not None:
        return False
    return (one.temperature, one.top_p, one.top_k) == (other.temperature, other.top_p, other.top_k)


def _search(sampling: Sampling) -> dict[str, Any]:
    """Return the sampling in ONNX Runtime GenAI's words; nothing is left to the model's own settings."""
    if sampling.temperature < COLD or (sampling.top_p is not None and sampling.top_p < NARROW):
        return genai.SEARCH
    settings = {"top_p": sampling.top_p, "top_k": sampling.top_k, "random_seed": sampling.seed}
    drawing = {"do_sample": True, "temperature": sampling.temperature}
    return genai.SEARCH | drawing | {key: value for key, value in settings.items() if value is not None}
