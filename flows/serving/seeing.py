"""Talking to the folder of a model that sees, on PyTorch; its export is talked to by `flows/serving/seeing_chat.py`.

The pictures go with the next question, and stay in the conversation. Answers are those of the evaluation where nothing
is sampled: the processor writes the prompt, and the model's own end tokens end it.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from flows.serving.media import MAX_PIXELS
from flows.serving.torch_stream import stream
from tasks.models.multimodal import load_multimodal
from tasks.models.turn_ends import end_tokens
from tasks.multimodal.picture_files import Unfit, decode
from tasks.stage.errors import DataError, ModelError


class SeeingConversation:
    """A model that sees, with what was said and shown so far."""

    part = "image"
    """Type of the part that stands for what is shown."""

    def __init__(self, folder: Path, images: Sequence[Path], *, max_new_tokens: int, temperature: float) -> None:
        """Load the model.

        Args:
            folder: a model folder.
            images: pictures for the first question.
            max_new_tokens: longest answer, in tokens.
            temperature: 0 takes the likeliest token, above it samples.

        Raises:
            DataError: a picture that cannot be read.
            ModelError: no model there, or an unreadable one.
        """
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self._model, self._processor = load_multimodal(folder)
        self._shown = [self._read(path) for path in images]
        self._model.eval()
        self._ends = end_tokens(self._model, self._processor.tokenizer)
        self._context = int(self._model.config.get_text_config().max_position_embeddings)
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self.messages: list[dict[str, Any]] = []
        self._pictures: list[Any] = []

    def show(self, path: Path) -> None:
        """Show a picture with the next question. Raises DataError when it cannot be read."""
        self._shown.append(self._read(path))

    def _read(self, path: Path) -> Any:
        """Read what is shown. Raises DataError."""
        return read_image(path)

    def _encoded(self, text: str, shown: Sequence[Any]) -> Any:
        """Return the tensors of a conversation that the chat template wrote, with all that was shown in it."""
        pictures = {"images": [list(shown)]} if shown else {}
        return self._processor(text=[text], **pictures, add_special_tokens=False, return_tensors="pt")

    def ask(self, question: str) -> Generator[str]:
        """Yield the answer bit by bit. What was yielded stays in the conversation, also when it was stopped midway.

        Raises:
            DataError: the conversation does not fit into the model's context.
            ModelError: the model failed.
        """
        parts = [{"type": self.part} for _ in self._shown] + [{"type": "text", "text": question}]
        messages = [*self.messages, {"role": "user", "content": parts}]
        pictures = [*self._pictures, *self._shown]
        text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = self._encoded(text, pictures)
        length = inputs["input_ids"].shape[1]
        room = min(self._max_new_tokens, self._context - length)
        if room < 1:
            raise DataError(
                f"the conversation is {length} tokens long, with all that is shown or played in it, the context only "
                f"{self._context}; /reset forgets it"
            )
        texts = stream(
            self._model,
            self._processor.tokenizer,
            inputs,
            room=room,
            ends=self._ends,
            temperature=self._temperature,
        )
        answer, failed = "", False
        try:
            for piece in texts:
                answer += piece
                yield piece
        except ModelError:
            failed = True
            raise
        finally:
            texts.close()
            if not failed:
                said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
                self.messages, self._pictures, self._shown = [*messages, said], pictures, []

    def forget(self) -> None:
        """Start anew, without pictures."""
        self.messages, self._pictures, self._shown = [], [], []


def read_image(path: Path) -> Any:
    """Read a picture as the data stage does: a `PIL.Image.Image` in RGB, upright, on white where it is transparent.

    Raises:
        DataError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None
    try:
        return decode(content, None, MAX_PIXELS).image
    except Unfit as e:
        reason = str(e).replace("pictures.max_pixels", "the bound of this command")
        raise DataError(f"{path}: the picture {reason}") from None
