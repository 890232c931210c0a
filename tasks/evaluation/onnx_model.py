"""ONNX Runtime GenAI folders as models of lm-evaluation-harness, so that the served model itself is evaluated.

The prompt is rendered and tokenized by the folder's own template and tokenizer, as the server does it. Batches are
padded on the right, which is where ONNX Runtime GenAI expects it: padding on the left gives wrong answers, silently.
A model gives greedy answers, and log-likelihoods of given ones and of whole texts. No sampling. The harness has a class
of its own for this runtime, which takes a row at a time and no chat template.
"""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tasks.evaluation import context as context_length
from tasks.evaluation.context import TooLong
from tasks.evaluation.requests import generation_lengths, pair_lengths, without_system
from tasks.export import genai
from tasks.export.divergence import log_softmax
from tasks.models.folder import load_tokenizer
from tasks.stage.errors import ConfigError, ModelError
from tasks.stage.progress import Progress

DEFAULT_TOKENS = 256
"""Longest answer of a task without `max_gen_toks`, in tokens, as the harness has it."""
MOST_ROWS = 32
"""Most rows that ONNX Runtime GenAI takes at once."""


class OnnxLM(TemplateLM):
    """Answers and scores rows in batches on ONNX Runtime."""

    def __init__(
        self,
        folder: Path,
        threads: int,
        batch_size: int,
        chat_template_args: dict[str, Any],
        too_long: TooLong,
        progress: Progress,
    ) -> None:
        """Load the form.

        Args:
            folder: an ONNX Runtime GenAI folder.
            threads: of ONNX Runtime.
            batch_size: most rows at once.
            chat_template_args: passed to the chat template. ONNX Runtime GenAI cannot, so with any the template is
                rendered by transformers, from the same file.
            too_long: treatment of a question that does not fit the context.
            progress: where each batch is reported.
        """
        super().__init__()
        self._model, self._tok = genai.load(folder, threads)
        self._context = genai.context_length(folder)
        self._progress = progress
        self._drops_space = genai.drops_space(folder)
        self._batch_size = min(batch_size, MOST_ROWS)
        self._too_long = too_long
        self.unanswered: set[tuple[str, int]] = set()
        self._template_args = chat_template_args
        self._template = load_tokenizer(folder) if chat_template_args else None
        self._ends = {int(token) for token in self._tok.eos_token_ids}
        self._folder = folder
        self._published = False
        self.warned = False

    @property
    def eot_token_id(self) -> int:
        """Token that ends a turn."""
        return min(self._ends)

    @property
    def prefix_token_id(self) -> int:
        """Token that begins a text without a prompt: that of the tokenizer, or the one that ends a text."""
        tokenizer = load_tokenizer(self._folder)
        return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer for the harness's cache, which is not used."""
        return ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokenize a text that the chat template wrote, special tokens included."""
        return genai.encode(self._tok, string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation by the folder's template."""
        try:
            return self._rendered(chat_history, add_generation_prompt)
        except (ModelError, TemplateError):
            if not self._published or all(message["role"] != "system" for message in chat_history):
                raise
            return without_system(self, chat_history, add_generation_prompt)

    def _rendered(self, chat_history: list[dict[str, str]], add_generation_prompt: bool) -> str:
        if self._template is None:
            return genai.render(self._tok, chat_history)
        return str(
            self._template.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt, **self._template_args
            )
        )

    @contextlib.contextmanager
    def as_published(self) -> Iterator[None]:
        """Divide texts as the harness's own class inside the block, for scores that others publish too."""
        self._published = True
        try:
            yield
        finally:
            self._published = False

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenize a prompt and an answer, apart: white space stays where the template put it."""
        if self._published:
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        return self.tok_encode(context), self.tok_encode(continuation)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Answer the requests greedily; one that is left out as too long gets "".

        Raises:
            ConfigError: a task asks for sampling.
            DataError: a prompt and its answer are longer than the context, unless `too_long` is `unanswered`.
        """
        prompts, longest = generation_lengths(self, requests, DEFAULT_TOKENS)
        fit, unanswered = context_length.answerable(requests, prompts, longest, self._context, self._too_long)
        self.unanswered |= unanswered
        ids = [self.tok_encode(requests[i].args[0]) for i in fit]
        settings = [requests[i].args[1] for i in fit]
        answers = [""] * len(requests)
        done = 0
        for batch in self._batches([len(prompt) for prompt in ids], [repr(values) for values in settings]):
            options = normalize_gen_kwargs(dict(settings[batch[0]]), default_max_gen_toks=DEFAULT_TOKENS)
            if options.pop("do_sample", False) or options.pop("temperature", 0.0):
                raise ConfigError("generation_kwargs ask for sampling; an ONNX form is evaluated greedily")
            until = handle_stop_sequences(options.pop("until", None), eos=None)
            new_tokens = options.pop("max_gen_toks")
            if options:
                raise ConfigError(
                    f"generation_kwargs.{min(options)} is not known for an ONNX form, which takes the likeliest token; "
                    f"leave it out, or evaluate the model itself"
                )
            texts = self._answer([ids[i] for i in batch], new_tokens, until)
            for i, text in zip(batch, texts, strict=True):
                answers[fit[i]] = postprocess_generated_text(text, stop=until, think_end_token=None)
            done += len(batch)
            self._progress.update(done, len(fit), "answering")
        return answers

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score the given continuations, in nats. Raises DataError when one does not fit the context."""
        prompts, answers = pair_lengths(self, requests)
        context_length.require_scorable(requests, prompts, answers, self._context)
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation, in nats, and whether it is the greedy one."""
        scores = [(0.0, False)] * len(requests)
        done = 0
        for batch in self._batches([len(context) + len(answer) for _, context, answer in requests]):
            rows = [requests[i][1] + requests[i][2] for i in batch]
            generator = self._generator(rows, 0)
            logits = np.asarray(generator.get_output("logits"), dtype=np.float32)
            for i, row, row_logits in zip(batch, rows, logits, strict=True):
                answer = requests[i][2]
                answer_logits = row_logits[len(row) - len(answer) - 1 : len(row) - 1]
                logps = log_softmax(answer_logits)[range(len(answer)), answer]
                scores[i] = float(logps.sum()), bool((answer_logits.argmax(-1) == answer).all())
            done += len(batch)
            self._progress.update(done, len(requests), "scoring references")
        return scores

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Score whole texts, in nats, in windows as long as the context, each of which follows one token of the last.

        The windows are the harness's own for a text that is longer than a model's context.
        """
        windows = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            rolling = get_rolling_token_windows(tokens, self.prefix_token_id, self._context, context_len=1)
            windows += [(number, *make_disjoint_window(window)) for window in rolling]
        scores = [0.0] * len(requests)
        likelihoods = self._loglikelihood_tokens(windows)
        for (number, _, _), (score, _) in zip(windows, likelihoods, strict=True):
            scores[number] += score
        return scores

    def _batches(self, lengths: Sequence[int], kinds: Sequence[str] | None = None) -> Iterator[list[int]]:
        """Yield the numbers of rows to take together: of one kind and of about one length, the longest first."""
        kinds = kinds or [""] * len(lengths)
        order = sorted(range(len(lengths)), key=lambda i: (kinds[i], -lengths[i], i))
        for _, group in groupby(order, key=lambda i: kinds[i]):
            rows = list(group)
            for start in range(0, len(rows), self._batch_size):
                yield rows[start : start + self._batch_size]

    def _generator(self, rows: Sequence[Sequence[int]], new_tokens: int) -> Any:
        """Return a generator that has read the rows, padded on the right."""
        import onnxruntime_genai as og

        width = max(map(len, rows))
        ids = np.full((len(rows), width), self._tok.pad_token_id, dtype=np.int32)
        for padded, row in zip(ids, rows, strict=True):
            padded[: len(row)] = row
        params = og.GeneratorParams(self._model)
        longest = min(width + max(new_tokens, 1), self._context)
        params.set_search_options(**genai.SEARCH, batch_size=len(rows), max_length=longest)
        generator = og.Generator(self._model, params)
        generator.append_tokens(ids)
        return generator

    def _answer(self, prompts: Sequence[Sequence[int]], new_tokens: int, until: Sequence[str]) -> list[str]:
        """Answer greedily, each prompt until its end token, one of the texts in `until`, or so many tokens."""
        generator = self._generator(prompts, new_tokens)
        streams = [genai.Stream(self._tok, self._drops_space) for _ in prompts]
        texts = [""] * len(prompts)
        live = set(range(len(prompts)))
        for _ in range(new_tokens):  # a short row of the batch would be given more than it may have
            if generator.is_done() or not live:
                break
            generator.generate_next_token()
            for i, token in enumerate(generator.get_next_tokens()):
                if i not in live:
                    continue
                if int(token) in self._ends:
                    live.discard(i)
                    continue
                texts[i] += streams[i].decode(int(token))
                if any(stop in texts[i] for stop in until):
                    live.discard(i)
        return texts
