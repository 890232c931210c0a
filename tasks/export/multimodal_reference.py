"""The PyTorch model that sees, with which an export of it is compared, and the prompts with pictures that both get."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.export.divergence import log_softmax
from tasks.export.reference import GREEDY
from tasks.models.chat_template import templated
from tasks.models.turn_ends import end_tokens
from tasks.multimodal import images, prompts
from tasks.stage.errors import DataError


@dataclass(frozen=True)
class PicturedPrompt:
    """A held-out prompt with its pictures, as the processor reads it."""

    messages: list[dict[str, Any]]
    """Conversation that ends with the user, in parts."""
    images: list[str]
    """Names of the pictures in the archive, in order."""
    text: str
    """Conversation by the chat template, up to where the assistant begins."""
    ids: list[int]
    """Tokens of the text; each picture's placeholder stands as often as the picture has features."""


class SeeingReference:
    """A model that sees, answering greedily, without sampling settings of its own."""

    def __init__(self, model: Any, processor: Any, data: Path) -> None:
        """Take a loaded model.

        Args:
            model: from `load_multimodal`.
            processor: its processor.
            data: data artifact with the pictures.
        """
        self._model = model.eval()
        self._processor = processor
        self._archive = images.Archive(data)
        self.ends = end_tokens(model, processor.tokenizer)

    def prompts(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]], rows: Sequence[Mapping[str, Any]]
    ) -> list[PicturedPrompt]:
        """Render and tokenize conversations; no picture is decoded.

        Args:
            conversations: each ends with the user.
            rows: the row of each, with the names of its pictures.

        Raises:
            DataError: a text spells the placeholder of a picture, or the template refuses a conversation.
        """
        return [self._prompt(messages, row) for messages, row in zip(conversations, rows, strict=True)]

    def _prompt(self, messages: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> PicturedPrompt:
        token = self._processor.image_token
        if any(token in message["content"] for message in messages):
            raise DataError(f"row {row.get('id')}: {images.spelt(self._processor)}")
        names = list(row.get(images.IMAGES) or ())
        turns = prompts.shown(messages, len(names))
        text = str(templated(self._processor, turns, tokenize=False, add_generation_prompt=True))
        each = images.tokens(self._processor, {images.IMAGES: names[:1]}, self._archive)
        ids: list[int] = []
        for number in self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]:
            ids += [number] * (each if number == self._processor.image_token_id else 1)
        return PicturedPrompt(turns, names, text, ids)

    def pictures(self, prompt: PicturedPrompt) -> list[Any]:
        """Decode the prompt's pictures."""
        return [self._archive.image(name) for name in prompt.images]

    def inputs(self, prompt: PicturedPrompt) -> dict[str, Any]:
        """Return the tensors that the processor makes of a prompt."""
        shown = {"images": [self.pictures(prompt)]} if prompt.images else {}
        return dict(self._processor(text=[prompt.text], **shown, add_special_tokens=False, return_tensors="pt"))

    def generate(
        self, prompt: PicturedPrompt, *, max_new_tokens: int, min_new_tokens: int = 0, streamer: Any = None
    ) -> list[int]:
        """Return the greedy answer to a prompt, the end token included."""
        import torch
        from transformers import GenerationConfig

        config = GenerationConfig(
            **GREEDY,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=self._processor.tokenizer.pad_token_id,
        )
        inputs = self.inputs(prompt)
        with torch.inference_mode():
            out = self._model.generate(**inputs, generation_config=config, streamer=streamer)
        return [int(i) for i in out[0, inputs["input_ids"].shape[1] :]]

    def text(self, answer: Sequence[int]) -> str:
        """Return the text of an answer, special tokens left out."""
        return str(self._processor.tokenizer.decode(list(answer), skip_special_tokens=True))

    def log_probs(self, prompt: PicturedPrompt, answer: Sequence[int]) -> Any:
        """Return the log-probabilities along `answer`, a float64 array `[len(answer), vocabulary]`."""
        import torch

        inputs = self.inputs(prompt)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([list(answer)])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            logits = self._model(**inputs, logits_to_keep=len(answer) + 1).logits[0, :-1]
        return log_softmax(logits.float().numpy())
