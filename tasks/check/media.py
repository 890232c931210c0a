"""Models that see or hear against transformers and their data: architectures, sampling rates, sections without use."""

from collections.abc import Iterator
from pathlib import Path

from tasks.align import Config as AlignConfig
from tasks.align_speech import Config as AlignSpeechConfig
from tasks.data import Config as DataConfig
from tasks.ingestion.media import NEEDED, has_media
from tasks.multimodal import architecture, speech_architecture
from tasks.multimodal.speech_settings import SpeechArchitecture
from tasks.stage import recipe
from tasks.stage.config import load, suggest
from tasks.stage.errors import ConfigError

ALIGN, ALIGN_SPEECH = "align", "align_speech"
"""Methods that put an encoder in front of a language model."""


def check_architectures(graph: recipe.Graph) -> Iterator[str]:
    """Check that transformers knows the encoder, its settings and the activation of models with new eyes or ears."""
    for name, model in graph.models.items():
        path = graph.path.parent / f"{name}.yaml"
        try:
            if model.method == ALIGN:
                eyes = load(path, AlignConfig).architecture
                architecture._vision_config(eyes, path)  # of this name since alignments are hashed with it
                _check_activation(eyes.act, path)
            elif model.method == ALIGN_SPEECH:
                ears = load(path, AlignSpeechConfig).architecture
                _check_ears(ears, path)
                _check_activation(ears.act, path)
        except ConfigError as e:
            yield str(e)


def _check_ears(ears: SpeechArchitecture, path: Path) -> None:
    """Raises ConfigError. A trained encoder is not fetched for a check."""
    if ears.encoder is None:
        speech_architecture._encoder(ears, path)  # the same
    elif ears.audio is not None or ears.features is not None:
        raise ConfigError(f"{path}: architecture.encoder brings `audio` and `features`; set both to null")


def _check_activation(act: str, path: Path) -> None:
    from transformers.activations import ACT2FN

    if act not in ACT2FN:
        raise ConfigError(f"{path}: architecture.act is '{act}'{suggest(act, ACT2FN)}")


def other_rates(graph: recipe.Graph) -> Iterator[str]:
    """Name the data sets of sounds whose rate is another than that of a model that learns from them or is asked."""
    folder = graph.path.parent
    sets = {name for name, model in graph.models.items() if model.method == recipe.MEDIA}
    sources = {name: model.values.get(recipe.DATA_KEY) for name, model in graph.models.items()}
    uses = [(name, data) for name, data in sources.items() if data in sets and "from" in graph.models[name].values]
    said = set()
    for name, data in dict.fromkeys([*uses, *graph.evaluate_media.items()]):
        sounds = load(folder / f"{data}.yaml", DataConfig).sounds
        ears = _ears_of(graph, name)
        if sounds is None or ears is None:
            continue
        features = load(folder / f"{ears}.yaml", AlignSpeechConfig).architecture.features
        if features is not None and features.sampling_rate != sounds.sampling_rate and (data, ears) not in said:
            said.add((data, ears))
            lost = "hears them without the upper part of their band, which it is given when it is served"
            lost = lost if sounds.sampling_rate < features.sampling_rate else "has them resampled each time"
            yield (
                f"{folder / f'{data}.yaml'}: sounds.sampling_rate is {sounds.sampling_rate} Hz, and "
                f"{folder / f'{ears}.yaml'} has architecture.features.sampling_rate {features.sampling_rate}: the "
                f"model {lost}; write the same rate in both"
            )


def _ears_of(graph: recipe.Graph, name: str) -> str | None:
    """Find the model among a model and its ancestors that was given its ears here."""
    while name in graph.models:
        if graph.models[name].method == ALIGN_SPEECH:
            return name
        name = graph.models[name].values.get("from", recipe.BASE)
    return None


def unused_sections(graph: recipe.Graph) -> Iterator[str]:
    """Name the sections on pictures, clips and sounds of data files none of whose maps has any."""
    names = ["data", *(name for name, model in graph.models.items() if model.method == recipe.MEDIA)]
    for path in (graph.path.parent / f"{name}.yaml" for name in names):
        config = load(path, DataConfig)
        for section, (what, keys, _) in NEEDED.items():
            given = getattr(config, section) is not None
            if given and not any(has_media(rows, keys) for rows in config.sets.values()):
                named = " or ".join(f"`{key}`" for key in keys)
                yield f"{path}: {section}: no set has {what}, so nothing looks at this; a map names them in {named}"
