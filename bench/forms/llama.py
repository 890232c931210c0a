"""llama.cpp on a GGUF file, through the low-level calls of `llama_cpp`, which take several sequences at once.

The package is no dependency of polm. Built for the processor at hand, which is what makes it fast:

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python --no-binary llama-cpp-python
"""

import ctypes
import importlib.util
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

INSTALL = "CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python --no-binary llama-cpp-python"


def missing() -> str | None:
    """Say what to do when the package is not there; None when it is."""
    return None if importlib.util.find_spec("llama_cpp") else f"llama_cpp is not installed: {INSTALL}"


class LlamaCpp:
    """A GGUF file on the CPU."""

    def __init__(self, path: Path, threads: int) -> None:
        """Args: path: file to load; threads: threads for prompts and for single tokens alike."""
        import llama_cpp

        self._c: Any = llama_cpp
        self._silent = self._c.llama_log_callback(lambda level, text, data: None)  # kept: ctypes does not hold it
        self._c.llama_log_set(self._silent, ctypes.c_void_p(0))
        self._c.llama_backend_init()
        params = self._c.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = self._c.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise RuntimeError(f"{path}: llama.cpp cannot load it")
        self._vocab = self._c.llama_model_get_vocab(self._model)
        self._size = self._c.llama_vocab_n_tokens(self._vocab)
        self._threads = threads
        self.template = (self._c.llama_model_chat_template(self._model, None) or b"").decode()

    def text(self, messages: Sequence[dict[str, str]]) -> None:
        """Render nothing: llama.cpp has no call for it, its programs bring an engine of their own."""

    def encode(self, text: str) -> list[int]:
        """Encode a text, in which special tokens written out become special tokens."""
        raw = text.encode()
        ids = (self._c.llama_token * (len(raw) + 8))()
        count = self._c.llama_tokenize(self._vocab, raw, len(raw), ids, len(ids), False, True)
        return list(ids[:count])

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids."""
        tokens = (self._c.llama_token * len(ids))(*ids)
        buffer = ctypes.create_string_buffer(64 * len(ids) + 64)
        count = self._c.llama_detokenize(self._vocab, tokens, len(ids), buffer, len(buffer), False, True)
        return buffer.raw[:count].decode(errors="replace")

    def logits(self, ids: Sequence[int]) -> Any:
        """Compute logits, float32 [len(ids), vocabulary]."""
        with self._context(1, len(ids)) as context:
            self._decode(context, np.asarray([ids]), 0, every=True)
            return np.stack([self._row(context, i) for i in range(len(ids))])

    def answer(self, ids: Sequence[int], new_tokens: int) -> list[int]:
        """Answer greedily; the end token does not stop it."""
        with self._context(1, len(ids) + new_tokens) as context:
            return [int(tokens[0]) for tokens in self._greedy(context, np.asarray([ids]), new_tokens)]

    def times(self, rows: Any, new_tokens: int) -> list[float]:
        """Read the clock around `llama_decode` and the choice of the likeliest token."""
        with self._context(len(rows), rows.shape[1] + new_tokens) as context:
            times = [time.perf_counter()]
            times += [time.perf_counter() for _ in self._greedy(context, rows, new_tokens)]
            return times

    @contextmanager
    def _context(self, sequences: int, length: int) -> Iterator[Any]:
        """Make room for so many sequences of this length."""
        params = self._c.llama_context_default_params()
        params.n_ctx = sequences * (-(-length // 256) * 256)
        params.n_batch = params.n_ctx
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self._threads
        context = self._c.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"llama.cpp has no room for {sequences} sequences of {length} tokens")
        try:
            yield context
        finally:
            self._c.llama_free(context)

    def _greedy(self, context: Any, rows: Any, new_tokens: int) -> Iterator[Any]:
        """Yield the next token of each row, so many times."""
        count, width = rows.shape
        last = [(i + 1) * width - 1 for i in range(count)]
        for step in range(new_tokens):
            self._decode(context, rows, width + step - 1 if step else 0)
            rows = np.asarray([[self._row(context, i, view=True).argmax()] for i in last])
            last = list(range(count))
            yield rows[:, 0]

    def _decode(self, context: Any, rows: Any, start: int, every: bool = False) -> None:
        """Read tokens `[sequences, n]` that stand from `start` on; logits of the last ones, or of `every` one."""
        count, width = rows.shape
        batch = self._c.llama_batch_init(count * width, 0, 1)
        try:
            batch.n_tokens = count * width
            for i, token in enumerate(rows.reshape(-1).tolist()):
                row, at = divmod(i, width)
                batch.token[i] = token
                batch.pos[i] = start + at
                batch.logits[i] = every or at == width - 1
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = row
            status = self._c.llama_decode(context, batch)
        finally:
            self._c.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode: status {status}")

    def _row(self, context: Any, i: int, view: bool = False) -> Any:
        """Take the logits of the i-th token; a view is good until the next call."""
        row = np.ctypeslib.as_array(self._c.llama_get_logits_ith(context, i), (self._size,))
        return row if view else row.copy()
