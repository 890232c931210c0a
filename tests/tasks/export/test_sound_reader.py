"""The reader of an export that hears: the text and tokens of the model's own processor, and its spectrograms."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.export.sound_reader import SoundReader
from tasks.multimodal import hearing
from tasks.stage.artifact import read_json, write_json
from tasks.stage.errors import DataError, ModelError
from tests.support.hearing import Plain, clips

QUESTION = "What do you hear? “é”\n"


def lengths(data: Path) -> list[Any]:
    """Sounds of a frame more or less than whole tokens and whole chunks (3 s of 16 kHz), noise, and silence."""
    clip = next(iter(clips(data).values()))
    noise = (0.1 * np.random.default_rng(0).standard_normal(200_000)).astype(np.float32)
    cut = [noise[:n] for n in (1_201, 1_401, 1_600, 1_601, 3_199, 47_999, 48_000, 48_001, 49_400, 96_000, 150_000)]
    return [clip, 3e-4 * clip, np.concatenate([clip, clip[::-1]]), *cut, np.zeros(16_000, dtype=np.float32)]


def test_text_tokens_and_spectrograms_are_the_processors(
    hearing_onnx: Path, lively_ears: Path, spoken_data: Path
) -> None:
    plain, reader = Plain(lively_ears), SoundReader(hearing_onnx / "int8")
    for samples in lengths(spoken_data):
        turns = hearing.conversation([{"role": "user", "content": QUESTION}], 1)
        assert reader.render(turns) == plain.text(QUESTION, 1)
        expected, prompt = plain.inputs(QUESTION, [samples]), reader.read(turns, [samples])
        assert prompt.ids == expected["input_ids"][0].tolist()
        assert prompt.spectrograms.shape == expected["input_features"].shape
        assert np.abs(prompt.spectrograms - expected["input_features"].numpy()).max() < 1e-3
        assert sum(prompt.tokens) == prompt.ids.count(reader.audio_token_id)


def test_words_alone_are_read(hearing_onnx: Path, lively_ears: Path) -> None:
    prompt = SoundReader(hearing_onnx / "fp32").read([{"role": "user", "content": QUESTION}], [])
    assert prompt.ids == Plain(lively_ears).inputs(QUESTION, [])["input_ids"][0].tolist()
    assert prompt.spectrograms.shape == (0, 32, 240) and prompt.tokens == ()


@pytest.mark.parametrize(
    ("count", "message"), [(1_200, "lasts 75 ms, too short to become a token"), (655 * 16_000, "hears 654 s at most")]
)
def test_a_sound_too_short_or_too_long_is_refused(hearing_onnx: Path, count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SoundReader(hearing_onnx / "fp32").tokens(np.zeros(count, dtype=np.float32))


def test_a_text_that_spells_a_sound_is_refused(hearing_onnx: Path) -> None:
    with pytest.raises(DataError, match="a text has '<audio>', which stands for a sound"):
        SoundReader(hearing_onnx / "fp32").render([{"role": "user", "content": "Is <audio> one?"}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"processor_class": "Qwen2AudioProcessor"}, "a Qwen2AudioProcessor, and only a GlmAsrProcessor is known"),
        ({"dither": 0.1}, "dither is 0.1"),
        ({"feature_extractor_type": "SeamlessM4TFeatureExtractor"}, "feature_extractor_type is SeamlessM4T"),
        ({"do_normalize": True}, "do_normalize is set"),
    ],
)
def test_a_processor_of_other_steps_is_refused(
    hearing_onnx: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    shutil.copytree(hearing_onnx / "fp32", tmp_path / "fp32")
    path = tmp_path / "fp32" / "processor_config.json"
    settings = read_json(path)
    inner = {} if "processor_class" in change else {"feature_extractor": settings["feature_extractor"] | change}
    write_json(path, settings | (inner or change))
    with pytest.raises(ModelError) as error:
        SoundReader(tmp_path / "fp32")
    assert message in str(error.value)
