"""Eyes and ears of a model as an exporter traces them: encoder and projector as one module, numbers to features."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.export.multimodal_session import AUDIO, VISION
from tasks.stage.errors import ModelError

ADVICE = "the PyTorch model answers all the same; models that `align` and `align_speech` made can be exported"


@dataclass(frozen=True)
class Encoder:
    """What is traced."""

    what: str
    """`eyes` or `ears`, for messages."""
    file: str
    """Name of the graph."""
    module: Any
    """Of one input."""
    input: str
    """Its name."""
    sample: Any
    """Three pictures or chunks of sound."""
    free: dict[int, str]
    """Dimensions of the input that may vary."""
    free_out: dict[int, str]
    """Dimensions of the features that may vary."""
    expected: Callable[[Any], Any]
    """The model's own features of such a sample, in the shape of the module's."""


def encoder_of(model: Any, folder: Path) -> Encoder:
    """Find the encoder of a model that sees or hears.

    Args:
        model: from `load_multimodal`, in evaluation mode.
        folder: where it came from.

    Raises:
        ModelError: it has none that an export knows.
    """
    try:
        return _ears(model, folder) if hasattr(model.model, "audio_tower") else _eyes(model, folder)
    except AttributeError as e:
        raise ModelError(
            f"{type(model).__name__} has no encoder and projector that an export knows ({e}); {ADVICE}"
        ) from e


def _eyes(model: Any, folder: Path) -> Encoder:
    import torch

    from tasks.export.multimodal_reader import Reader

    class Eyes(torch.nn.Module):
        """The model's own features, without the list of one tensor a picture, whose length a trace would fix."""

        def __init__(self) -> None:
            super().__init__()
            self.tower = model.model.vision_tower
            self.projector = model.model.multi_modal_projector

        def forward(self, pixel_values: Any) -> Any:
            """Return features `[pictures x places, width]` of pictures `[pictures, 3, height, width]`."""
            cells = self.tower(pixel_values).last_hidden_state.flatten(2).permute(0, 2, 1)
            return self.projector(cells).flatten(0, 1)

    def expected(pictures: Any) -> Any:
        return torch.cat(list(model.get_image_features(pictures).pooler_output))

    eyes = Eyes()
    sample = _noise(Reader(folder).pixels([]).shape[1:], model.dtype)
    return Encoder("eyes", VISION, eyes, "pixel_values", sample, {0: "pictures"}, {0: "places"}, expected)


def _ears(model: Any, folder: Path) -> Encoder:
    import torch

    from tasks.export.sound_reader import SoundReader

    class Ears(torch.nn.Module):
        """The model's own features of whole chunks: those of the padding are left out behind it."""

        def __init__(self) -> None:
            super().__init__()
            self.tower = model.model.audio_tower
            self.projector = model.model.multi_modal_projector
            self.merged = model.config.audio_config.intermediate_size

        def forward(self, input_features: Any) -> Any:
            """Return features `[chunks, tokens, width]` of spectrograms `[chunks, bands, frames]`."""
            frames = self.tower(input_features).last_hidden_state
            return self.projector(frames.reshape(input_features.shape[0], -1, self.merged))

    def expected(chunks: Any) -> Any:
        mask = torch.ones((len(chunks), chunks.shape[-1]), dtype=torch.long)  # each is heard whole
        features = model.get_audio_features(chunks, mask, return_dict=True).pooler_output
        return features.unflatten(0, (len(chunks), -1))

    ears = Ears()
    sample = _noise(SoundReader(folder).spectrograms([]).shape[1:], model.dtype)
    return Encoder("ears", AUDIO, ears, "input_features", sample, {0: "chunks"}, {0: "chunks"}, expected)


def _noise(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return three samples of noise, -1 to 1."""
    import torch

    return torch.rand((3, *shape), generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1
