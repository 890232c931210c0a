"""Exports of models that hear, as models of lm-evaluation-harness: questions, sounds and controls as for PyTorch.

Answers and scores are those of the exports that see; what differs is how a question is written and how its sound is
decoded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.evaluation import shown
from tasks.evaluation.onnx_multimodal_model import OnnxSeeingLM
from tasks.export.prompt_reader import MediaPrompt
from tasks.export.sound_reader import Heard, SoundReader
from tasks.multimodal.hearing import resampled
from tasks.multimodal.sounds import sound
from tasks.stage.errors import DataError


class OnnxSpeechLM(OnnxSeeingLM):
    """Answers and scores rows with sounds on ONNX Runtime."""

    media = "sounds"
    """What it takes beside words."""

    def _open(self, folder: Path) -> SoundReader:
        return SoundReader(folder)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokenize a text that the chat template wrote; a sound counts as its one placeholder."""
        ids: list[int] = self._reader.encode(string, [])
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation by the folder's template, with a placeholder for each `MARK`.

        Raises:
            DataError: a text spells the placeholder itself.
        """
        turns = shown.spoken_turns(chat_history, self._reader.audio_token)
        return str(self._reader.render(turns, self._template_args))

    def _prompts(self, requests: Sequence[Any], names: Sequence[list[str]]) -> list[list[int]]:
        """Tokenize the prompts. Raises DataError for a sound of no token, and one that is too long."""
        prompts = []
        for request, heard in zip(requests, names, strict=True):
            try:
                prompts.append(self._reader.encode(request.args[0], self._sounds(request, heard)))
            except DataError as e:
                raise DataError(f"task {request.task_name}, row {request.doc['id']}: {e}") from None
        return prompts

    def _sounds(self, request: Any, names: Sequence[str]) -> list[Any]:
        """Decode what a request hears under the control."""
        sounds = [resampled(*sound(self._archive, name), self._reader.sampling_rate) for name in names]
        return shown.quietened(request, sounds, self.control, self._seed)

    def _prompt(self, request: Any, prompt: list[int], names: Sequence[str]) -> MediaPrompt:
        sounds = self._sounds(request, names)
        counts = tuple(count for samples in sounds for count in self._reader.tokens(samples))
        return Heard(prompt, self._reader.audio_token_id, self._reader.spectrograms(sounds), counts)
