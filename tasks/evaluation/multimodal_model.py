"""Models that see, as models of lm-evaluation-harness: pictures of the rows beside the words, and controls.

The harness's own class for such models takes one way of writing a picture into a prompt, and scores no likelihoods.
Here the model's processor renders and tokenizes, whatever the architecture. A row shows its `images`, from the archive
of the data artifact, before its question; a row without any is asked in words alone, so one model can be asked both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import postprocess_generated_text, resolve_max_length

from tasks.evaluation import context as context_length
from tasks.evaluation import shown
from tasks.evaluation.context import TooLong
from tasks.models.multimodal import load_multimodal
from tasks.models.turn_ends import end_tokens
from tasks.multimodal import images
from tasks.multimodal.controls import Control
from tasks.stage.errors import ConfigError
from tasks.stage.progress import Progress


class MultimodalLM(TemplateLM):
    """Answers and scores rows with pictures."""

    media = "pictures"
    """What it takes beside words."""

    def __init__(
        self,
        folder: Path,
        device: str,
        dtype: str,
        batch_size: int,
        chat_template_args: dict[str, Any],
        too_long: TooLong,
        progress: Progress,
        data: Path,
        seed: int,
    ) -> None:
        """Load a model folder.

        Args:
            folder: of a model that sees.
            device: where it runs.
            dtype: of the weights, a torch name.
            batch_size: rows answered at once.
            chat_template_args: passed to the chat template.
            too_long: treatment of a question that does not fit the context.
            progress: where each batch is reported.
            data: data artifact with the pictures.
            seed: of the controls.
        """
        super().__init__()
        model, self._processor = load_multimodal(folder, dtype)
        self._model = model.to(device).eval()
        self._tok = self._processor.tokenizer
        self._device = device
        self._batch_size = batch_size
        self._template_args = chat_template_args
        self._too_long = too_long
        self._progress = progress
        self._archive = images.Archive(data)
        self._seed = seed
        self._context = resolve_max_length(self._model.config.get_text_config(), self._tok)
        self._ends = end_tokens(self._model, self._tok)
        self.control: Control | None = None
        """The picture shown in place of each row's own; None shows its own."""
        self.unanswered: set[tuple[str, int]] = set()
        self.uncontrolled: set[tuple[str, str]] = set()
        """Task and id of the rows that a control could show nothing else for."""

    @property
    def eot_token_id(self) -> int:
        """Token that ends a turn."""
        return min(self._ends)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer for the harness's cache, which is not used."""
        return ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokenize a text that the chat template wrote; a picture counts as its one placeholder."""
        ids: list[int] = self._tok(string, add_special_tokens=False)["input_ids"]
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation by the processor's template, with a placeholder for each `MARK`.

        Raises:
            DataError: a text spells the placeholder itself.
        """
        turns = shown.turns(chat_history, self._processor)
        return str(
            self._processor.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **self._template_args
            )
        )

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Answer the requests greedily; one that is left out as too long gets "".

        Raises:
            ConfigError: `generation_kwargs` ask for sampling, or have a key that is not known here.
            DataError: a prompt and its answer are longer than the context, unless `too_long` is `unanswered`.
        """
        settings = [shown.settings(request.args[1]) for request in requests]
        names = self._shown(requests)
        prompts = self._lengths(requests, names)
        answers = [values["max_gen_toks"] for values in settings]
        fit, unanswered = context_length.answerable(requests, prompts, answers, self._context, self._too_long)
        self.unanswered |= unanswered
        texts = [""] * len(requests)
        done = 0
        kinds = [f"{bool(row)} {values}" for row, values in zip(names, settings, strict=True)]
        for batch in self._batches(fit, prompts, kinds):
            inputs = self._inputs(batch, requests, names, "left")
            with torch.inference_mode():
                tokens = self._model.generate(
                    **inputs, max_new_tokens=answers[batch[0]], do_sample=False, eos_token_id=self._ends,
                    pad_token_id=self._tok.pad_token_id,
                )  # fmt: skip
            for i, row in zip(batch, tokens[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((k for k, token in enumerate(row) if token in self._ends), len(row))
                text = self._tok.decode(row[:end], skip_special_tokens=True)
                texts[i] = postprocess_generated_text(text, stop=settings[i]["until"], think_end_token=None)
            done += len(batch)
            self._progress.update(done, len(fit), "answering" + (f" with {self.control}" if self.control else ""))
        return texts

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score the given continuations, in nats. Raises DataError when one does not fit the context."""
        endings = [self.tok_encode(request.args[1]) for request in requests]
        names = self._shown(requests)
        prompts = self._lengths(requests, names)
        context_length.require_scorable(requests, prompts, [len(ending) for ending in endings], self._context)
        scores = [(0.0, False)] * len(requests)
        done = 0
        alone: list[int] = []
        for batch in _by_question(requests):
            if len(batch) == 1:
                alone += batch
                continue
            for i, score in zip(batch, self._choices(batch, requests, names, endings), strict=True):
                scores[i] = score
            done += len(batch)
            self._progress.update(done, len(requests), "scoring" + (f" with {self.control}" if self.control else ""))
        for batch in self._batches(alone, prompts, [str(bool(row)) for row in names]):
            inputs = self._inputs(batch, requests, names, "right")
            starts = inputs["attention_mask"].sum(dim=1).tolist()
            inputs = self._continued(inputs, starts, [endings[i] for i in batch])
            with torch.inference_mode():
                logits = self._model(**inputs).logits.float()
            for i, row, start in zip(batch, logits, starts, strict=True):
                logps = row[start - 1 : start - 1 + len(endings[i])].log_softmax(-1).cpu()
                scores[i] = _score(logps, endings[i])
            done += len(batch)
            self._progress.update(done, len(requests), "scoring")
        return scores

    def _choices(
        self, batch: Sequence[int], requests: Sequence[Any], names: Sequence[list[str]], endings: Sequence[list[int]]
    ) -> list[tuple[float, bool]]:
        """Score the choices of one question together: its prompt and pictures, most of the tokens, are read once."""
        inputs = self._inputs(batch[:1], requests, names, "right")
        chosen = [endings[i] for i in batch]
        width = max(map(len, chosen))
        ids = torch.full((len(batch), width), self._tok.pad_token_id)
        for row, ending in zip(ids, chosen, strict=True):
            row[: len(ending)] = torch.tensor(ending)
        with torch.inference_mode():
            read = self._model(**inputs, use_cache=True)
            cache = read.past_key_values
            cache.batch_repeat_interleave(len(batch))
            mask = torch.ones(len(batch), inputs["input_ids"].shape[1] + width, dtype=torch.long, device=self._device)
            going_on = self._model(input_ids=ids.to(self._device), attention_mask=mask, past_key_values=cache).logits
        logits = torch.cat([read.logits[:, -1:].expand(len(batch), -1, -1), going_on[:, :-1]], dim=1).float()
        logps = logits.log_softmax(-1).cpu()
        return [_score(row[: len(ending)], ending) for row, ending in zip(logps, chosen, strict=True)]

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError("likelihoods are scored by rows, which have the pictures")

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Refuse the request. Raises ConfigError."""
        raise ConfigError("output_type loglikelihood_rolling is not known for a model that sees")

    def _lengths(self, requests: Sequence[Any], shown_names: Sequence[list[str]]) -> list[int]:
        """Count the tokens of each prompt, those of the pictures that it shows among them."""
        lengths = []
        for request, names in zip(requests, shown_names, strict=True):
            tokens = images.tokens(self._processor, {images.IMAGES: names}, self._archive)
            lengths.append(len(self.tok_encode(request.args[0])) - len(names) + tokens)
        return lengths

    def _shown(self, requests: Sequence[Any]) -> list[list[str]]:
        """Return the names of the pictures that each request shows, under the control."""
        return shown.names(requests, self.control, self._seed, self.uncontrolled)

    def _inputs(
        self, batch: Sequence[int], requests: Sequence[Any], names: Sequence[list[str]], side: str
    ) -> dict[str, Any]:
        """Return the tensors of a batch, padded on a side; its pictures are decoded here."""
        pictures = [shown.decoded(requests[i], names[i], self._archive, self.control, self._seed) for i in batch]
        encoded = self._processor(
            text=[requests[i].args[0] for i in batch],
            **({"images": pictures} if any(pictures) else {}),
            padding=True,
            padding_side=side,
            add_special_tokens=False,
            return_tensors="pt",
        )
        dtype = self._model.dtype
        return {
            key: value.to(self._device, dtype if value.is_floating_point() else value.dtype)
            for key, value in encoded.items()
        }

    def _continued(self, inputs: dict[str, Any], starts: list[int], endings: list[list[int]]) -> dict[str, Any]:
        """Put tokens behind each prompt of a batch padded on the right: no prompt's positions depend on the others."""
        width = max(start + len(ending) for start, ending in zip(starts, endings, strict=True))
        continued = dict(inputs)
        for key, value in inputs.items():
            if value.shape != inputs["input_ids"].shape:  # of pictures
                continue
            wider = torch.zeros((len(value), width), dtype=value.dtype, device=value.device)
            for row, old, start, ending in zip(wider, value, starts, endings, strict=True):
                row[:start] = old[:start]
                if key == "input_ids":
                    row[start : start + len(ending)] = torch.tensor(ending, dtype=row.dtype)
                    row[start + len(ending) :] = self._tok.pad_token_id
                if key == "attention_mask":
                    row[start : start + len(ending)] = 1
            continued[key] = wider
        return continued

    def _batches(self, numbers: Sequence[int], lengths: Sequence[int], kinds: Sequence[str]) -> Iterator[list[int]]:
        """Yield the rows to take together: of one kind and of about one length, the longest first."""
        for kind in sorted(set(kinds)):
            order = sorted((i for i in numbers if kinds[i] == kind), key=lambda i: (-lengths[i], i))
            for start in range(0, len(order), self._batch_size):
                yield order[start : start + self._batch_size]


def _by_question(requests: Sequence[Any]) -> list[list[int]]:
    """Put the numbers of requests together that ask one row the same, in their order: the choices of its answer."""
    questions: dict[tuple[str, str, str], list[int]] = {}
    for i, request in enumerate(requests):
        questions.setdefault((request.task_name, request.doc["id"], request.args[0]), []).append(i)
    return list(questions.values())


def _score(logps: torch.Tensor, ending: Sequence[int]) -> tuple[float, bool]:
    """Return the log-likelihood of an ending by `logps` `[tokens, vocabulary]`, and whether it is the likeliest."""
    ids = torch.tensor(ending)
    total = logps.gather(1, ids[:, None]).sum().item()
    return total, bool((logps.argmax(-1) == ids).all())
