"""The PyTorch model that sees or hears, with which an export of it is compared, and the prompts that both get."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.export.divergence import log_softmax
from tasks.export.prompt_reader import MediaPrompt
from tasks.export.reference import GREEDY
from tasks.models.chat_template import templated
from tasks.models.turn_ends import end_tokens
from tasks.multimodal import hearing, images, prompts
from tasks.multimodal.sounds import AUDIO
from tasks.stage.errors import DataError

TOLERANCE = 1e-3
"""Largest difference between a value of a spectrogram here and PyTorch's, whose sums are of single precision."""


@dataclass(frozen=True)
class HeldOutPrompt:
    """A held-out prompt with its pictures or its sounds, as the processor reads it."""

    messages: list[dict[str, Any]]
    """Conversation that ends with the user, in parts."""
    media: list[str]
    """Names of the pictures or the sounds in the archive, in order."""
    text: str
    """Conversation by the chat template, up to where the assistant begins."""
    ids: list[int]
    """Tokens of the text; the placeholder stands as often as what stands in its place has features."""


class MultimodalReference(ABC):
    """A model answering greedily, without sampling settings of its own."""

    measure: str
    """Measure of `tasks/export/parity.py` that says whether an export is shown or played the same."""

    def __init__(self, model: Any, processor: Any, data: Path) -> None:
        """Take a loaded model.

        Args:
            model: from `load_multimodal`.
            processor: its processor.
            data: data artifact with the pictures or the sounds.
        """
        self._model = model.eval()
        self._processor = processor
        self._archive = images.Archive(data)
        self.ends = end_tokens(model, processor.tokenizer)

    def prompts(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]], rows: Sequence[Mapping[str, Any]]
    ) -> list[HeldOutPrompt]:
        """Render and tokenize conversations.

        Args:
            conversations: each ends with the user.
            rows: the row of each, with the names of its pictures or sounds.

        Raises:
            DataError: a text spells the placeholder, the template refuses a conversation, or a sound is too short or
                too long.
        """
        return [self._prompt(messages, row) for messages, row in zip(conversations, rows, strict=True)]

    @abstractmethod
    def _prompt(self, messages: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> HeldOutPrompt:
        """Render and tokenize one."""

    @abstractmethod
    def media(self, prompt: HeldOutPrompt) -> list[Any]:
        """Decode the prompt's pictures or sounds."""

    @abstractmethod
    def inputs(self, prompt: HeldOutPrompt) -> dict[str, Any]:
        """Return the tensors that the processor makes of a prompt."""

    @abstractmethod
    def same(self, ours: MediaPrompt, theirs: Mapping[str, Any]) -> bool:
        """Whether an export's prompt shows or plays what the processor's tensors do."""

    def _rendered(self, turns: list[dict[str, Any]]) -> str:
        return str(templated(self._processor, turns, tokenize=False, add_generation_prompt=True))

    def _spread(self, text: str, placeholder: int, counts: Sequence[int]) -> list[int]:
        """Tokenize a text; the placeholders become as many as `counts` says, in order."""
        left = iter(counts)
        ids: list[int] = []
        for number in self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]:
            ids += [number] * (next(left) if number == placeholder else 1)
        return ids

    def generate(
        self, prompt: HeldOutPrompt, *, max_new_tokens: int, min_new_tokens: int = 0, streamer: Any = None
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

    def log_probs(self, prompt: HeldOutPrompt, answer: Sequence[int]) -> Any:
        """Return the log-probabilities along `answer`, a float64 array `[len(answer), vocabulary]`."""
        import torch

        inputs = self.inputs(prompt)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([list(answer)])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            logits = self._model(**inputs, logits_to_keep=len(answer) + 1).logits[0, :-1]
        return log_softmax(logits.float().numpy())


class SeeingReference(MultimodalReference):
    """A model that sees."""

    measure = "pictures_identical"

    def _prompt(self, messages: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> HeldOutPrompt:
        """Render and tokenize one; no picture is decoded."""
        token = self._processor.image_token
        if any(token in message["content"] for message in messages):
            raise DataError(f"row {row.get('id')}: {images.spelt(self._processor)}")
        names = list(row.get(images.IMAGES) or ())
        turns = prompts.shown(messages, len(names))
        text = self._rendered(turns)
        each = images.tokens(self._processor, {images.IMAGES: names[:1]}, self._archive)
        ids = self._spread(text, self._processor.image_token_id, [each] * len(names))
        return HeldOutPrompt(turns, names, text, ids)

    def media(self, prompt: HeldOutPrompt) -> list[Any]:
        """Decode the prompt's pictures."""
        return [self._archive.image(name) for name in prompt.media]

    def inputs(self, prompt: HeldOutPrompt) -> dict[str, Any]:
        """Return the tensors that the processor makes of a prompt."""
        shown = {"images": [self.media(prompt)]} if prompt.media else {}
        return dict(self._processor(text=[prompt.text], **shown, add_special_tokens=False, return_tensors="pt"))

    def same(self, ours: MediaPrompt, theirs: Mapping[str, Any]) -> bool:
        """Whether the pixels are the same, to the bit."""
        import numpy as np

        if "pixel_values" not in theirs:
            return not len(ours.media)
        return bool(np.array_equal(ours.media, theirs["pixel_values"].numpy()))


class HearingReference(MultimodalReference):
    """A model that hears."""

    measure = "sounds_alike"

    def _prompt(self, messages: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> HeldOutPrompt:
        """Render and tokenize one; its sounds are decoded for their lengths."""
        place, token = f"row {row.get('id')}", self._processor.audio_token
        if any(token in message["content"] for message in messages):
            raise DataError(f"{place}: a text has '{token}', which stands for a sound in what the model reads")
        names = list(row.get(AUDIO) or ())
        turns = hearing.conversation(messages, len(names))
        text = self._rendered(turns)
        counts = [hearing.counted(self._processor, [self._heard(name)], place) for name in names]
        return HeldOutPrompt(turns, names, text, self._spread(text, self._processor.audio_token_id, counts))

    def _heard(self, name: str) -> Any:
        return hearing.heard(self._archive, name, self._processor)

    def media(self, prompt: HeldOutPrompt) -> list[Any]:
        """Decode the prompt's sounds."""
        return [self._heard(name) for name in prompt.media]

    def inputs(self, prompt: HeldOutPrompt) -> dict[str, Any]:
        """Return the tensors that the processor makes of a prompt."""
        return hearing.encoded(self._processor, [prompt.text], self.media(prompt), "left")

    def same(self, ours: MediaPrompt, theirs: Mapping[str, Any]) -> bool:
        """Whether the spectrograms differ by no more than rounding."""
        import numpy as np

        if "input_features" not in theirs:
            return not len(ours.media)
        expected = theirs["input_features"].numpy()
        return ours.media.shape == expected.shape and bool(np.abs(ours.media - expected).max() <= TOLERANCE)
