"""Exports of models that see, as models of lm-evaluation-harness: questions, pictures and controls as for PyTorch.

One row at a time, by the reader and the session that `polm serve` answers with. Greedy answers, and log-likelihoods of
given ones; no sampling, no rolling log-likelihood.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import postprocess_generated_text

from tasks.evaluation import context as context_length
from tasks.evaluation import shown
from tasks.evaluation.context import TooLong
from tasks.export.divergence import log_softmax
from tasks.export.multimodal_reader import Pictured, Reader
from tasks.export.multimodal_session import Session
from tasks.export.prompt_reader import MediaPrompt
from tasks.multimodal import images
from tasks.multimodal.controls import Control
from tasks.stage.errors import ConfigError
from tasks.stage.progress import Progress


class OnnxSeeingLM(TemplateLM):
    """Answers and scores rows with pictures on ONNX Runtime."""

    media = "pictures"
    """What it takes beside words."""

    def __init__(
        self,
        folder: Path,
        threads: int,
        chat_template_args: dict[str, Any],
        too_long: TooLong,
        progress: Progress,
        data: Path,
        seed: int,
    ) -> None:
        """Load the form.

        Args:
            folder: a form of an export.
            threads: of ONNX Runtime.
            chat_template_args: passed to the chat template.
            too_long: treatment of a question that does not fit the context.
            progress: where each row is reported.
            data: data artifact with the pictures or the sounds.
            seed: of the controls.
        """
        super().__init__()
        self._reader, self._session = self._open(folder), Session(folder, threads)
        self._template_args = chat_template_args
        self._too_long = too_long
        self._progress = progress
        self._archive = images.Archive(data)
        self._seed = seed
        self.control: Control | None = None
        """The picture shown in place of each row's own; None shows its own."""
        self.unanswered: set[tuple[str, int]] = set()
        self.uncontrolled: set[tuple[str, str]] = set()
        """Task and id of the rows that a control could show nothing else for."""

    def _open(self, folder: Path) -> Any:
        return Reader(folder)

    @property
    def eot_token_id(self) -> int:
        """Token that ends a turn."""
        return min(self._session.ends)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer for the harness's cache, which is not used."""
        return ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokenize a text that the chat template wrote; a placeholder stands as often as its picture has features."""
        return self._reader.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation by the folder's template, with a placeholder for each `MARK`.

        Raises:
            DataError: a text spells the placeholder itself.
        """
        return self._reader.render(shown.turns(chat_history, self._reader), self._template_args)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Answer the requests greedily; one that is left out as too long gets "".

        Raises:
            ConfigError: `generation_kwargs` ask for sampling, or have a key that is not known here.
            DataError: a prompt and its answer are longer than the context, unless `too_long` is `unanswered`.
        """
        settings = [shown.settings(request.args[1]) for request in requests]
        names = self._names(requests)
        prompts = self._prompts(requests, names)
        longest = [values["max_gen_toks"] for values in settings]
        lengths = [len(prompt) for prompt in prompts]
        fit, unanswered = context_length.answerable(requests, lengths, longest, self._session.context, self._too_long)
        self.unanswered |= unanswered
        texts = [""] * len(requests)
        for done, i in enumerate(fit, 1):
            embeddings = self._embeddings(requests[i], prompts[i], names[i])
            tokens = list(self._session.generate(embeddings, max_new_tokens=longest[i]))
            end = next((k for k, token in enumerate(tokens) if token in self._session.ends), len(tokens))
            text = self._reader.decode(tokens[:end])
            texts[i] = postprocess_generated_text(text, stop=settings[i]["until"], think_end_token=None)
            self._progress.update(done, len(fit), "answering" + (f" with {self.control}" if self.control else ""))
        return texts

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score the given continuations, in nats. Raises DataError when one does not fit the context."""
        names = self._names(requests)
        prompts = self._prompts(requests, names)
        endings = [self.tok_encode(request.args[1]) for request in requests]
        asked, given = ([len(ids) for ids in side] for side in (prompts, endings))
        context_length.require_scorable(requests, asked, given, self._session.context)
        scores = []
        for i, (request, ending) in enumerate(zip(requests, endings, strict=True)):
            logits = self._session.logits(self._embeddings(request, prompts[i], names[i]), ending)[:-1]
            logps = log_softmax(logits)[range(len(ending)), ending]
            scores.append((float(logps.sum()), bool((logits.argmax(-1) == ending).all())))
            self._progress.update(i + 1, len(requests), "scoring")
        return scores

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError("likelihoods are scored by rows, which have the pictures")

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Refuse the request. Raises ConfigError."""
        raise ConfigError("output_type loglikelihood_rolling is not known for a model that sees")

    def _names(self, requests: Sequence[Any]) -> list[list[str]]:
        return shown.names(requests, self.control, self._seed, self.uncontrolled)

    def _prompts(self, requests: Sequence[Any], names: Sequence[list[str]]) -> list[list[int]]:
        """Tokenize the prompts, with a place for each feature of what they show; no picture is decoded."""
        return [self.tok_encode(request.args[0]) for request in requests]

    def _embeddings(self, request: Any, prompt: list[int], names: Sequence[str]) -> Any:
        """Return a prompt's embeddings, with what its request shows."""
        return self._session.embeddings(self._prompt(request, prompt, names))

    def _prompt(self, request: Any, prompt: list[int], names: Sequence[str]) -> MediaPrompt:
        pictures = shown.decoded(request, names, self._archive, self.control, self._seed)
        return Pictured(prompt, self._reader.image_token_id, self._reader.pixels(pictures))
