"""Log-mel spectrograms as Whisper's feature extractor makes them (Radford et al., 2022), without PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.stage.errors import ModelError

EXTRACTOR = "WhisperFeatureExtractor"
HIGHEST = 8000.0
"""Hz of the highest band, whatever the sampling rate: the extractor has no setting of it."""
FLOOR = 1e-10
"""Power below which a band counts as silent."""
RANGE = 8.0
"""Powers of ten below the loudest band at which a band is cut off."""


class Spectrogram:
    """What turns sounds into chunks of equal length, and these into bands."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Read the extractor's settings.

        Args:
            path: their file, for messages.
            settings: as the file has them.

        Raises:
            ModelError: another extractor, or one with settings that are not made here.
        """
        import numpy as np
        from transformers.audio_utils import mel_filter_bank

        wrong = [
            f"{key} is {settings.get(key)}"
            for key, wanted in {"feature_extractor_type": EXTRACTOR, "dither": 0.0, "padding_value": 0.0}.items()
            if settings.get(key) != wanted
        ]
        wrong += ["do_normalize is set"] if settings.get("do_normalize") else []
        if wrong:
            raise ModelError(
                f"{path}: this processor prepares sounds in a way that an export cannot ({'; '.join(wrong)}); models "
                f"that `align_speech` made can be exported, and of others the PyTorch model answers"
            )
        self.sampling_rate = int(settings["sampling_rate"])
        self.seconds = settings["chunk_length"]
        self.samples = int(self.seconds * self.sampling_rate)
        self.hop, self.window, self.bands = (int(settings[key]) for key in ("hop_length", "n_fft", "feature_size"))
        self.frames = self.samples // self.hop
        filters = mel_filter_bank(
            1 + self.window // 2, self.bands, 0.0, HIGHEST, self.sampling_rate, norm="slaney", mel_scale="slaney"
        )
        self._filters = np.asarray(filters, dtype=np.float64)
        self._hann = np.hanning(self.window + 1)[:-1]

    def chunks(self, samples: Any) -> list[Any]:
        """Cut a sound, `[samples]`, into chunks, each as long as the encoder hears at once, but for the last."""
        return [samples[start : start + self.samples] for start in range(0, max(1, len(samples)), self.samples)]

    def frames_of(self, chunk: Any) -> int:
        """Count the frames in which a chunk is heard."""
        return min(self.frames, -(-len(chunk) // self.hop))

    def of(self, chunks: Sequence[Any]) -> Any:
        """Return the bands of chunks, float32 `[chunks, bands, frames]`, each padded by silence to its whole length.

        The sums are of double precision; the extractor's, by PyTorch, of single.
        """
        import numpy as np

        bands = np.empty((len(chunks), self.bands, self.frames), dtype=np.float32)
        half = self.window // 2
        for place, chunk in zip(bands, chunks, strict=True):
            whole = np.zeros(self.samples)
            whole[: len(chunk)] = chunk
            centred = np.pad(whole, half, mode="reflect")
            frames = np.lib.stride_tricks.sliding_window_view(centred, self.window)[:: self.hop][: self.frames]
            power = np.abs(np.fft.rfft(frames * self._hann)) ** 2
            logs = np.log10(np.maximum(self._filters.T @ power.T, FLOOR))
            place[:] = (np.maximum(logs, logs.max() - RANGE) + 4.0) / 4.0
        return bands
