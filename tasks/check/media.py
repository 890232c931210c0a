"""Models that see or hear against transformers and their data: architectures, sampling rates, sections without use."""

from collections.abc import Iterator
from pathlib import Path

from tasks.align import Config as AlignConfig
from tasks.align_speech import Config as AlignSpeechConfig
from tasks.check.files import Recipe
from tasks.data import Config as DataConfig
from tasks.ingestion.media import NEEDED, has_media
from tasks.multimodal import architecture, speech_architecture
from tasks.multimodal.speech_settings import SpeechArchitecture
from tasks.stage import recipe
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError

ALIGN_SPEECH = "align_speech"
"""The method that puts an encoder of sounds in front of a language model."""


def check_architectures(under_check: Recipe) -> Iterator[str]:
    """Check that transformers knows the encoder, its settings and the activation of models with new eyes or ears."""
    for name in under_check.graph.models:
        path = under_check.folder / f"{name}.yaml"
        seeing, hearing = under_check.of(path.name, AlignConfig), under_check.of(path.name, AlignSpeechConfig)
        try:
            if seeing is not None:
                eyes = seeing.architecture
                architecture._vision_config(eyes, path)  # of this name since alignments are hashed with it
                _check_activation(eyes.act, path)
            elif hearing is not None:
                ears = hearing.architecture
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


def other_rates(under_check: Recipe) -> Iterator[str]:
    """Name the data sets of sounds whose rate is another than that of a model that learns from them or is asked."""
    graph, folder = under_check.graph, under_check.folder
    sets = {name for name, model in graph.models.items() if model.method == recipe.MEDIA}
    sources = {name: model.values.get(recipe.DATA_KEY) for name, model in graph.models.items()}
    uses = [(name, data) for name, data in sources.items() if data in sets and "from" in graph.models[name].values]
    said = set()
    for name, data in dict.fromkeys([*uses, *graph.evaluate_media.items()]):
        config, ears = under_check.of(f"{data}.yaml", DataConfig), _ears_of(graph, name)
        hearing = under_check.of(f"{ears}.yaml", AlignSpeechConfig)
        sounds = None if config is None else config.sounds
        if sounds is None or hearing is None:
            continue
        features = hearing.architecture.features
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


def unused_sections(under_check: Recipe) -> Iterator[str]:
    """Name the sections on pictures, clips and sounds of data files none of whose maps has any."""
    for file in under_check.configs:
        path, config = under_check.folder / file, under_check.of(file, DataConfig)
        if config is None:
            continue
        for section, (what, keys, _) in NEEDED.items():
            given = getattr(config, section) is not None
            if given and not any(has_media(rows, keys) for rows in config.sets.values()):
                named = " or ".join(f"`{key}`" for key in keys)
                yield f"{path}: {section}: no set has {what}, so nothing looks at this; a map names them in {named}"
