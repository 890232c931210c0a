"""Models that hear, as models of lm-evaluation-harness: the sounds of the rows beside the words, and controls.

Batches, lengths, greedy answers and scores are those of the models that see; what differs is how a question is written
and how its sound is decoded.
"""

from collections.abc import Sequence
from typing import Any

from tasks.evaluation import shown
from tasks.evaluation.multimodal_model import MultimodalLM
from tasks.multimodal import hearing
from tasks.stage.errors import DataError


class SpeechLM(MultimodalLM):
    """Answers and scores rows with one sound each, or none."""

    media = "sounds"
    """What it takes beside words."""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation by the processor's template, with a placeholder for each `MARK`.

        Raises:
            DataError: a text spells the placeholder itself.
        """
        turns = shown.spoken_turns(chat_history, self._processor.audio_token)
        return str(
            self._processor.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt, **self._template_args
            )
        )

    def _lengths(self, requests: Sequence[Any], shown_names: Sequence[list[str]]) -> list[int]:
        """Count the tokens of each prompt, those of its sound among them.

        Raises:
            DataError: a row has several sounds, or one that becomes no token or would be cut.
        """
        lengths = []
        for request, names in zip(requests, shown_names, strict=True):
            place = f"task {request.task_name}, row {request.doc['id']}"
            if len(names) > 1:
                raise DataError(f"{place}: has {len(names)} sounds; a model hears one in each row")
            tokens = hearing.counted(self._processor, self._sounds(request, names), place)
            lengths.append(len(self.tok_encode(request.args[0])) - len(names) + tokens)
        return lengths

    def _sounds(self, request: Any, names: Sequence[str]) -> list[Any]:
        """Decode what a request hears under the control."""
        sounds = [hearing.heard(self._archive, name, self._processor) for name in names]
        return shown.quietened(request, sounds, self.control, self._seed)

    def _inputs(
        self, batch: Sequence[int], requests: Sequence[Any], names: Sequence[list[str]], side: str
    ) -> dict[str, Any]:
        """Return the tensors of a batch, padded on a side; its sounds are decoded here."""
        sounds = [sound for i in batch for sound in self._sounds(requests[i], names[i])]
        encoded = hearing.encoded(self._processor, [requests[i].args[0] for i in batch], sounds, side)
        dtype = self._model.dtype
        return {
            key: value.to(self._device, dtype if value.is_floating_point() else value.dtype)
            for key, value in encoded.items()
        }
