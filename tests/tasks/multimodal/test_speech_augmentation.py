"""Random changes of sounds: each in its bounds, each of its own generator, and zeros change the level alone."""

from typing import Any

import numpy as np
import pytest
import torch

from tasks.multimodal.speech_augmentation import _band, changed, masked
from tasks.multimodal.speech_settings import SpeechAugmentation
from tasks.stage.config import parse
from tests.support.sounds import CHANGES, PARAMS, RATE, UNCHANGED


def settings(**changes: Any) -> SpeechAugmentation:
    return parse(PARAMS, UNCHANGED | changes, SpeechAugmentation)


def rng(seed: int = 0) -> Any:
    return np.random.default_rng(seed)


def tone(hertz: float = 440.0, seconds: float = 1.0, level: float = 0.5) -> Any:
    time = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def spectrograms(sounds: int = 3, bands: int = 32, frames: int = 60) -> torch.Tensor:
    return torch.rand((sounds, bands, frames), generator=torch.Generator().manual_seed(0)) + 1.0


def test_zeros_change_nothing_but_the_level() -> None:
    sound = tone()
    assert np.allclose(changed(sound, RATE, 10 * RATE, settings(), rng()), sound / np.abs(sound).max(), atol=1e-6)
    features = spectrograms()
    assert torch.allclose(masked(features, [60] * 3, settings(), [rng()] * 3), features, atol=1e-5)


def test_the_same_generator_changes_alike_and_another_otherwise() -> None:
    every = settings(**CHANGES)
    first, again, other = (changed(tone(), RATE, 10 * RATE, every, rng(seed)) for seed in (1, 1, 2))
    assert first.dtype == np.float32 and np.array_equal(first, again)
    assert len(first) != len(other) or not np.array_equal(first, other)
    one, same, else_ = (
        masked(spectrograms(), [60] * 3, every, [rng(seed + k) for k in range(3)]) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, else_)


def test_a_sounds_changes_do_not_hang_on_the_others() -> None:
    every, features = settings(**CHANGES), spectrograms()
    batch = masked(features, [60, 40, 50], every, [rng(k) for k in range(3)])
    for k, length in enumerate((60, 40, 50)):
        assert torch.allclose(masked(features[k : k + 1], [length], every, [rng(k)])[0], batch[k], atol=1e-6)


def test_speed_takes_the_pitch_with_it_and_stays_in_its_bounds() -> None:
    lengths = []
    for seed in range(30):
        sound = changed(tone(), RATE, 10 * RATE, settings(speed=0.2), rng(seed))
        lengths.append(len(sound))
        heard = np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound)
        assert heard * len(sound) / RATE == pytest.approx(440, abs=3), "as many waves, in another time"
    assert RATE / 1.2 - 2 < min(lengths) < RATE * 0.9 and RATE * 1.1 < max(lengths) < RATE / 0.8 + 2


def test_a_sound_becomes_no_longer_than_what_is_heard_at_once() -> None:
    """Nor is one that is longer already made longer."""
    for longest in (RATE, RATE + 2_000, RATE // 2):
        slow = [changed(tone(), RATE, longest, settings(speed=0.2, offset=0.3), rng(seed)) for seed in range(20)]
        assert 0.8 * RATE < max(len(sound) for sound in slow) <= max(longest, RATE)


def test_gain_offset_and_noise_stay_in_their_bounds() -> None:
    peaks = [np.abs(changed(tone(), RATE, 10 * RATE, settings(gain=0.5), rng(seed))).max() for seed in range(30)]
    assert 0.499 < min(peaks) < 0.6 and 0.9 < max(peaks) <= 1.0001
    before = [len(changed(tone(), RATE, 10 * RATE, settings(offset=0.3), rng(seed))) - RATE for seed in range(30)]
    assert 0 <= min(before) < 0.1 * RATE and 0.2 * RATE < max(before) <= 0.3 * RATE
    silence = np.zeros(RATE, np.float32)
    levels = {
        round(float(changed(silence, RATE, 10 * RATE, settings(noise=0.01), rng(seed)).std()), 3) for seed in range(40)
    }
    assert levels == {0.0, 0.001, 0.004, 0.01}


def test_a_mask_hides_bands_and_frames_and_nothing_beside() -> None:
    features = spectrograms(20)
    out = masked(features, [60] * 20, settings(bands=6, frames=5), [rng(k) for k in range(20)])
    floor = features.amin(dim=(1, 2), keepdim=True)
    hidden = torch.isclose(out, floor, atol=1e-5)
    assert torch.allclose(out[~hidden], features[~hidden], atol=1e-5)
    bands, frames = hidden.all(dim=2).sum(dim=1), hidden.all(dim=1).sum(dim=1)
    assert 0 < bands.max() <= 12 and 0 < frames.max() <= 10


def test_a_telephone_has_no_high_bands() -> None:
    features = spectrograms(10, bands=64)
    out = masked(features, [60] * 10, settings(telephone=1.0), [rng(k) for k in range(10)])
    floor = features.amin(dim=(1, 2), keepdim=True)
    low, high = _band(3_400, 64), _band(4_000, 64)
    assert torch.allclose(out[:, :low], features[:, :low], atol=1e-5)
    assert torch.allclose(out[:, high:], floor.expand(-1, 64 - high, 60))
    assert masked(features, [60] * 10, settings(telephone=0.0), [rng(k) for k in range(10)])[:, high:].std() > 0.1


@pytest.mark.parametrize("bands", [32, 64, 80])
def test_the_band_of_a_frequency_is_that_of_the_extractor(bands: int) -> None:
    from transformers.audio_utils import hertz_to_mel

    for frequency in (500.0, 1_000.0, 3_400.0, 4_000.0):
        place = float(hertz_to_mel(frequency, "slaney") / hertz_to_mel(8_000.0, "slaney"))
        assert 0 <= _band(frequency, bands) - place * bands < 1


def test_warping_moves_a_formant_and_no_more_than_its_share() -> None:
    features = torch.zeros(40, 64, 10)
    features[:, 32] = 1.0
    out = masked(features, [10] * 40, settings(warp=0.2), [rng(k) for k in range(40)])
    places = out.mean(dim=2).argmax(dim=1)
    assert 32 / 1.2 - 1 <= places.min() < 31 and 33 < places.max() <= 32 / 0.8 + 1
