"""What a model hears: the tokens that are counted are those that it is given, and a sound of none is named."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks.models.multimodal import load_processor
from tasks.multimodal import hearing
from tasks.multimodal.images import Archive
from tasks.stage import artifact
from tasks.stage.errors import DataError
from tests.support.recordings import played
from tests.support.sounds import CHUNK, HOP, RATE

FULL = CHUNK * RATE


@pytest.fixture(scope="module")
def processor(hearing_model: Path) -> Any:
    return load_processor(hearing_model)


def noise(samples: int) -> Any:
    return np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


def written(processor: Any, samples: Any) -> int:
    """The placeholders that the processor itself writes for a sound."""
    batch = processor(text=["<audio>"], audio=[samples], audio_kwargs={"sampling_rate": RATE})
    return int((batch["input_ids"] == processor.audio_token_id).sum())


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_the_tokens_that_are_counted_are_those_that_the_processor_writes(processor: Any, chunks: int) -> None:
    """Around each end of a chunk, and around each length at which a token more is written."""
    around = [0, 1, HOP, 7 * HOP - 1, 7 * HOP, 7 * HOP + 1, 8 * HOP, FULL - HOP, FULL - 1, FULL]
    counts = set()
    for rest in around:
        sound = noise(chunks * FULL + rest)
        count = hearing.tokens(processor, [sound])
        assert count == written(processor, sound), rest
        counts.add(count)
    assert {30 * chunks, 30 * chunks + 1, 30 * chunks + 30} <= counts, "ten a second"


def test_several_sounds_take_what_each_takes(processor: Any) -> None:
    sounds = [noise(n) for n in (20_000, FULL + 1, 30_000)]
    assert (
        hearing.tokens(processor, sounds) == sum(hearing.tokens(processor, [sound]) for sound in sounds) == 12 + 30 + 18
    )
    assert hearing.tokens(processor, []) == 0


def test_a_processor_without_lengths_is_asked_itself(processor: Any) -> None:
    """Processors of other architectures have no count by length; the tensors give the same one."""

    class Other:
        audio_token, audio_token_id = processor.audio_token, processor.audio_token_id
        feature_extractor, tokenizer = processor.feature_extractor, processor.tokenizer

        def __call__(self, **kwargs: Any) -> Any:
            return processor(**kwargs)

    sounds = [noise(n) for n in (20_000, FULL + 2_000)]
    assert hearing.tokens(Other(), sounds) == hearing.tokens(processor, sounds) == 12 + 31


@pytest.mark.parametrize("samples", [0, 1, 6 * HOP])
def test_a_sound_that_becomes_no_token_is_named(processor: Any, samples: int) -> None:
    shortest = noise(6 * HOP + 1)
    assert hearing.counted(processor, [shortest, shortest], "a.jsonl:3") == 2
    message = rf"^a.jsonl:3: its sound lasts {1000 * samples / RATE:.0f} ms, too short to become a token"
    with pytest.raises(DataError, match=message):
        hearing.counted(processor, [shortest, noise(samples)], "a.jsonl:3")


def test_a_sound_that_would_be_cut_is_named(processor: Any) -> None:
    """The processor cuts what is longer, and says so in its log alone."""
    limited = SimpleNamespace(max_audio_len=7, feature_extractor=processor.feature_extractor)
    with pytest.raises(DataError, match=r"^a.jsonl:3: its sound lasts 6.5 s, and the model hears 6 s at most"):
        hearing.counted(limited, [noise(6 * RATE + RATE // 2)], "a.jsonl:3")


def test_the_rate_of_a_sound_becomes_the_models(processor: Any, spoken_data: Path) -> None:
    """A tone stays the tone that it was, as long and as loud."""
    for rate in (8_000, 22_050, 44_100):
        time = np.arange(rate) / rate
        tone = hearing.resampled((0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), rate, RATE)
        assert (tone.dtype, len(tone)) == (np.float32, RATE)
        assert np.abs(np.fft.rfft(tone)).argmax() == 440
        assert np.abs(tone[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)
    same = played(0).astype(np.float32)
    assert hearing.resampled(same, 8_000, 8_000) is same
    row = artifact.read_jsonl(spoken_data / "sft" / "train.jsonl")[0]
    sound = hearing.heard(Archive(spoken_data), row["audio"][0], processor)
    assert sound.dtype == np.float32 and 0.2 * RATE < len(sound) < 3 * RATE


def test_the_place_of_a_sound_is_before_the_first_question(processor: Any) -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    whole = hearing.conversation(turns, 1)
    text = processor.apply_chat_template(whole, tokenize=False)
    assert text.count("<audio>") == 1 and "<|im_start|>user\n<audio>user<|im_end|>" in text
    plain = processor.apply_chat_template(hearing.conversation(turns, 0), tokenize=False)
    assert plain == text.replace("<audio>", "") == processor.tokenizer.apply_chat_template(turns, tokenize=False)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_on_the_side_that_is_asked_for(processor: Any, side: str) -> None:
    sounds = [noise(5_000), noise(40_000)]
    batch = hearing.encoded(processor, ["<audio>a", "<audio>b"], sounds, side)
    assert set(batch) == {"input_ids", "attention_mask", "input_features", "input_features_mask"}
    first = batch["attention_mask"][0].tolist()
    assert 0 in first and first == sorted(first, reverse=side == "right")
    ids = [row[mask == 1].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    for text, sound, row in zip("ab", sounds, ids, strict=True):
        alone = hearing.encoded(processor, [f"<audio>{text}"], [sound], side)
        assert alone["input_ids"][0].tolist() == row
    words = hearing.encoded(processor, ["a", "bcd"], [], side)
    assert set(words) == {"input_ids", "attention_mask"}


def test_who_hears(processor: Any) -> None:
    assert hearing.hears(processor)
    assert not hearing.hears(processor.tokenizer)
