"""The prompt of an exported model that hears, without PyTorch: its text, its tokens, and its sounds as spectrograms.

The settings are those of the model's processor, GLM-ASR's (`GlmAsrProcessor` of transformers): a sound is cut into
chunks of equal length, the last one is padded by silence, and of each chunk one token stands for every eight frames in
which it is heard. That this reader gives the same text and tokens as the processor, and the same spectrograms but for
rounding, is checked when a model is exported, and written to `parity.json`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.export.prompt_reader import PROCESSOR, MediaPrompt, Message, PromptReader
from tasks.export.spectrogram import Spectrogram
from tasks.stage.errors import DataError, ModelError

PROCESSOR_CLASS = "GlmAsrProcessor"
MERGED = 4
"""Frames of the encoder that become one token; the encoder halves those of the spectrogram."""


@dataclass(frozen=True)
class Heard(MediaPrompt):
    """A prompt that is ready for the model, with its sounds."""

    audio_token_id: int
    """The placeholder."""
    spectrograms: Any
    """Chunks of all sounds in order, float32 `[chunks, bands, frames]`; without a sound `[0, bands, frames]`."""
    tokens: tuple[int, ...]
    """Tokens of each chunk; the encoder makes as many of all, and those of the padding behind a sound are left out."""
    seconds: tuple[float, ...] = ()
    """Length of each sound."""

    @property
    def placeholder_id(self) -> int:
        """The same."""
        return self.audio_token_id

    @property
    def media(self) -> Any:
        """The chunks."""
        return self.spectrograms

    def features(self, encoded: Any) -> Any:
        """Return the features of what is heard, of those of whole chunks `[chunks, tokens, width]`."""
        import numpy as np

        return np.concatenate([chunk[:count] for chunk, count in zip(encoded, self.tokens, strict=True)])


class SoundReader(PromptReader):
    """Template, tokenizer and feature extractor of a folder."""

    kind, sense = "sound", "hears"

    def __init__(self, folder: Path) -> None:
        """Read the folder's files.

        Args:
            folder: a form of an export, or the model's own folder.

        Raises:
            ModelError: a file is missing, or the processor takes steps that are not made here.
        """
        super().__init__(folder, "audio_token")
        kind = self.settings.get("processor_class")
        if kind != PROCESSOR_CLASS:
            raise ModelError(
                f"{folder / PROCESSOR}: a {kind}, and only a {PROCESSOR_CLASS} is known here; the PyTorch model answers"
            )
        self.audio_token, self.audio_token_id = self.placeholder, self.placeholder_id
        self._spectrogram = Spectrogram(folder / PROCESSOR, self.settings.get("feature_extractor") or {})
        self.sampling_rate = self._spectrogram.sampling_rate
        longest = self.settings["max_audio_len"]
        self.max_seconds = float(longest // self._spectrogram.seconds * self._spectrogram.seconds)
        """Seconds of the longest sound that the model hears."""

    def tokens(self, samples: Any) -> list[int]:
        """Count the tokens of each chunk of a sound.

        Args:
            samples: `[samples]` (float32), at `sampling_rate`.

        Raises:
            DataError: the sound is too long, or so short that it becomes no token.
        """
        seconds = len(samples) / self.sampling_rate
        if seconds > self.max_seconds:
            raise DataError(
                f"a sound lasts {seconds:.1f} s, and the model hears {self.max_seconds:g} s at most; cut it"
            )
        counts = [-(-self._spectrogram.frames_of(chunk) // 2) // MERGED for chunk in self._spectrogram.chunks(samples)]
        if not sum(counts):
            raise DataError(
                f"a sound lasts {1000 * seconds:.0f} ms, too short to become a token of what the model reads"
            )
        return counts

    def encode(self, text: str, sounds: Sequence[Any]) -> list[int]:
        """Tokenize what the template wrote; each placeholder becomes as many as its sound has features.

        Args:
            text: from `render`.
            sounds: as in `tokens`; of placeholders beyond them each stays single.

        Raises:
            DataError: as `tokens`.
        """
        return self.spread(text, [sum(self.tokens(samples)) for samples in sounds])

    def spectrograms(self, sounds: Sequence[Any]) -> Any:
        """Turn sounds into the chunks that `Heard` has."""
        return self._spectrogram.of([chunk for samples in sounds for chunk in self._spectrogram.chunks(samples)])

    def prompt(self, text: str, media: Sequence[Any]) -> Heard:
        """Make a prompt of what the template wrote and its sounds, as in `tokens`. Raises DataError as that."""
        counts = tuple(count for samples in media for count in self.tokens(samples))
        seconds = tuple(len(samples) / self.sampling_rate for samples in media)
        return Heard(self.encode(text, media), self.audio_token_id, self.spectrograms(media), counts, seconds)

    def read(self, messages: Sequence[Message], media: Sequence[Any]) -> Heard:
        """Read a conversation with its sounds. Raises as `render`, and DataError as `tokens`."""
        return self.prompt(self.render(messages), media)
