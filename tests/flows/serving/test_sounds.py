"""What a request plays: bytes inside it, decoded within bounds, whatever the client calls them."""

import base64
from typing import Any

import numpy as np
import pytest

from flows.serving import sounds
from flows.serving.media import Media, MediaError, media_type, recorded, timed
from flows.serving.sounds import decoded, inline, sample
from tests.support.recordings import bad_files, declared_longer, encoded, played

PLACE = "messages[0].content[1]"
FORMS = {"WAV": "audio/wav", "FLAC": "audio/flac", "MP3": "audio/mpeg", "OGG": "audio/ogg"}


def test_bytes_inside_the_request() -> None:
    assert inline(base64.b64encode(b"what").decode(), PLACE) == b"what"


@pytest.mark.parametrize("payload", ["a?b=", "YQ", "é", "data:audio/wav;base64,YQ=="])
def test_what_is_no_base64_is_refused(payload: str) -> None:
    with pytest.raises(MediaError, match="holds no valid base64") as error:
        inline(payload, PLACE)
    assert (error.value.place, error.value.code) == (PLACE, "invalid_audio")


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds, "MAX_BYTES", 60)
    assert inline(base64.b64encode(b"x" * 60).decode(), PLACE) == b"x" * 60
    with pytest.raises(MediaError, match="has more than 60 bytes; send a shorter sound") as error:
        inline("A" * 90, PLACE)
    assert error.value.code == "audio_too_large"


@pytest.mark.parametrize("kind", FORMS)
def test_a_sound_is_heard_at_the_models_rate_whatever_its_format(kind: str) -> None:
    content = encoded(played(1, 1.0), kind)
    assert media_type(content) == FORMS[kind]
    samples = decoded(Media("audio", content, PLACE), 16_000)
    assert samples.dtype == np.float32 and abs(len(samples) - 16_000) < 1_000
    assert 0.4 < np.abs(samples).max() < 0.6


BAD = set(bad_files()) - {"heavy.wav", "really_mp3.wav", "really_wav.mp3", "long.wav", "hours.flac", "whisper.flac"}


@pytest.mark.parametrize("name", sorted(BAD))
def test_what_is_no_sound_is_refused_by_its_place(name: str) -> None:
    with pytest.raises(MediaError) as error:
        decoded(Media("audio", bad_files()[name][0], PLACE), 16_000)
    assert (error.value.place, error.value.code) == (PLACE, "invalid_audio")
    assert str(error.value).startswith(f"'{PLACE}': the sound ") and "sounds." not in str(error.value)


def test_a_sound_of_hours_is_not_decoded() -> None:
    with pytest.raises(MediaError, match=r"lasts 36000.0 s, over the bound of this server \(120\)"):
        decoded(Media("audio", declared_longer(36_000.0), PLACE), 16_000)


def test_the_sample_can_be_heard() -> None:
    assert len(decoded(sample(), 8_000)) == 8_000


def test_a_trace_has_hash_and_length_and_no_samples() -> None:
    content = encoded(played(2))
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": "7"},
    ]
    heard, text = timed(recorded(turns, [Media("audio", content, PLACE)]), (0.25,))[0]["content"]
    assert set(heard) == {"type", "sha256", "bytes", "media_type", "seconds"}
    assert (heard["type"], heard["media_type"], heard["seconds"]) == ("audio", "audio/wav", 0.25)
    assert text == {"type": "text", "text": "Which?"}
