"""One loaded model that hears, answering several requests at a time: `flows/serving/seeing_engine.py` with ears."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.serving.media import Media, MediaError
from flows.serving.seeing_engine import SeeingEngine
from flows.serving.sounds import decoded
from tasks.export.sound_reader import Heard, SoundReader
from tasks.stage.errors import DataError


class HearingEngine(SeeingEngine):
    """A model that hears, its reader and the thread that answers."""

    takes = "audio"

    def _open(self, folder: Path) -> Any:
        return SoundReader(folder)

    def encode(self, messages: Sequence[Mapping[str, Any]], media: Sequence[Media] = ()) -> Heard:
        """Read a conversation, up to where the assistant begins, and decode what is played in it.

        Args:
            messages: each content a text, or parts; a part `{"type": "audio"}` for each sound, in order.
            media: what these parts play.

        Raises:
            MediaError: a sound cannot be decoded, is too short or one too many, something is to be seen, or a text
                spells a sound's placeholder.
            ModelError: the template refuses the conversation.
        """
        for number, played in enumerate(media):
            if played.kind != "audio":
                message = f"'{played.place}' is a picture, and this model has no eyes; send text or a sound"
                raise MediaError(message, played.place, "unsupported_content")
            if number:  # the processor, by which the model was trained, takes one sound a text
                message = (
                    f"'{played.place}' is one too many: this model hears one sound in a conversation; leave it out"
                )
                raise MediaError(message, played.place, "too_many_sounds")
        sounds = [self._heard(played) for played in media]
        try:
            text = self._reader.render(messages)
        except DataError as e:
            raise MediaError(str(e), "messages", "invalid_text") from None
        prompt: Heard = self._reader.prompt(text, sounds)
        return prompt

    def _heard(self, played: Media) -> Any:
        """Decode a sound of which there is something to be heard."""
        samples = decoded(played, self._reader.sampling_rate)
        try:
            self._reader.tokens(samples)
        except DataError as e:
            raise MediaError(f"'{played.place}': {e}", played.place, "invalid_audio") from None
        return samples
