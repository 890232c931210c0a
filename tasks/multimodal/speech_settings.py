"""Settings of a model that is given ears: its encoder, and how sounds are changed while they are learnt."""

from typing import Any

from pydantic import Field

from tasks.stage.config import Strict


class Features(Strict):
    """The section `architecture.features:` of an align_speech.yaml: how sound becomes a log-mel spectrogram."""

    sampling_rate: int = Field(ge=8_000)
    """Samples a second, in Hz, of what the model hears; sounds of another rate are resampled."""
    mel_bins: int = Field(gt=0)
    """Bands between 0 and 8 kHz."""
    window: int = Field(gt=0)
    """Samples of a frame."""
    hop: int = Field(gt=0)
    """Samples between the beginnings of two frames."""
    chunk_seconds: int = Field(gt=0)
    """Seconds that the encoder hears at once; every sound is padded to a multiple."""


class SpeechArchitecture(Strict):
    """The section `architecture:` of an align_speech.yaml."""

    audio: dict[str, Any] | None
    """Configuration of the encoder, as `GlmAsrEncoderConfig` of transformers takes it; null with `encoder`."""
    features: Features | None
    """How sound becomes a spectrogram; null with `encoder`, which brings its own."""
    encoder: str | None
    """Model folder, or model of the hub, of GLM-ASR's architecture, whose trained encoder is taken over."""
    act: str
    """Activation inside the projector, as transformers names it, e.g. `gelu`."""


class SpeechAugmentation(Strict):
    """The section `augmentation:`: random changes of sounds while they are learnt. Zeros change nothing."""

    speed: float = Field(ge=0, lt=1)
    """Largest share by which a sound is made faster or slower, its pitch with it."""
    tilt: float = Field(ge=0, lt=1)
    """Largest coefficient of a filter of the first order that makes a sound sharper or duller."""
    noise: float = Field(ge=0)
    """Largest standard deviation of white noise, of full scale; three in four sounds get some."""
    gain: float = Field(ge=0, lt=1)
    """Largest share by which a sound is made quieter."""
    offset: float = Field(ge=0)
    """Most seconds of silence before a sound."""
    warp: float = Field(ge=0, lt=1)
    """Largest share by which the frequencies are stretched: another length of the vocal tract (Jaitly and Hinton,
    2013)."""
    telephone: float = Field(ge=0, le=1)
    """Share of the sounds whose band ends between 3.4 and 4 kHz, 0 to 1."""
    bands: int = Field(ge=0)
    """Most mel bands that each of two masks hides (SpecAugment, arXiv:1904.08779)."""
    frames: int = Field(ge=0)
    """Most frames that each of two masks hides."""
