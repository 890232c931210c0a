"""One sound's file: what is heard is kept, and what is no sound is refused with a reason."""

import io
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from tasks.multimodal.picture_files import Unfit
from tasks.multimodal.sound_files import Decoded, decode, format_of
from tests.conftest import REPO
from tests.support.recordings import RATE, bad_files, channels, declared_longer, encoded, flac, played, still

BAD = bad_files()
HEARD_BY_STAGE = {"empty.wav", "heavy.wav"}
"""Files that are refused by their size, before they are decoded."""


def decoded(content: bytes, rate: int = RATE, claimed: str | None = None) -> Decoded:
    return decode(content, claimed, rate, 2.0, 0.01)


def kept(result: Decoded) -> tuple[Any, int]:
    """The samples in the file that is kept, and its rate; its form is the one that is promised."""
    with soundfile.SoundFile(io.BytesIO(result.content)) as file:
        assert (file.format, file.subtype, file.channels) == ("FLAC", "PCM_16", 1)
        return file.read(dtype="int16"), file.samplerate


def pitch(samples: Any, rate: int) -> float:
    """The loudest frequency, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize("name", sorted(BAD.keys() - HEARD_BY_STAGE))
def test_what_is_no_sound_is_refused_with_a_reason(name: str) -> None:
    content, reason = BAD[name]
    with pytest.raises(Unfit) as e:
        decoded(content, claimed=format_of(name))
    assert reason in str(e.value)
    assert "0x" not in str(e.value), "an address in memory makes the reason another one with every run"
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("cut", range(1, 60, 7))
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_file_that_lacks_its_end_is_never_taken_for_whole(kind: str, cut: int) -> None:
    content = encoded(played(1, 1.0), kind)
    assert len(decoded(content).samples) == RATE
    with pytest.raises(Unfit):
        decoded(content[:-cut])


def test_an_ogg_without_its_last_page_is_not_whole() -> None:
    content = encoded(played(1, 1.0), "OGG", "VORBIS")
    with pytest.raises(Unfit, match="cut off before its last page"):
        decoded(content[: content.rindex(b"OggS")])


def test_a_flac_of_the_form_that_is_kept_is_kept_byte_for_byte() -> None:
    content = flac(1)
    result = decoded(content, claimed="FLAC")
    assert result.content is content
    assert (result.rate, result.channels, result.encoding) == (RATE, 1, "16 bit")
    assert np.array_equal(kept(result)[0], result.samples)


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64"])
def test_sixteen_bits_lose_nothing(kind: str) -> None:
    whole = np.arange(-(2**15), 2**15, 33).astype(np.int16)
    result = decoded(encoded(whole, kind, "PCM_16"))
    assert np.array_equal(result.samples, whole)
    assert np.array_equal(kept(result)[0], whole)
    assert kept(result)[1] == RATE


@pytest.mark.parametrize(
    ("kind", "subtype", "encoding", "error"),
    [("WAV", "PCM_U8", "8 bit", 2**-7), ("WAV", "PCM_24", "24 bit", 2**-14), ("WAV", "PCM_32", "32 bit", 2**-14),
     ("WAV", "FLOAT", "32 bit float", 2**-14), ("WAV", "DOUBLE", "64 bit float", 2**-14),
     ("FLAC", "PCM_24", "24 bit", 2**-14),
     ("WAV", "ULAW", "mu-law", 0.03), ("WAV", "ALAW", "A-law", 0.03), ("OGG", "VORBIS", "Vorbis", 0.1),
     ("OGG", "OPUS", "Opus", 0.2), ("MP3", None, "MP3", 0.1)],
)  # fmt: skip
def test_other_encodings_sound_the_same(kind: str, subtype: str | None, encoding: str, error: float) -> None:
    samples = played(2, 1.0)
    result = decoded(encoded(samples, kind, subtype))
    assert result.encoding == encoding
    assert len(result.samples) == len(samples)
    assert np.abs(kept(result)[0] / 2**15 - samples).max() < error
    assert decoded(result.content).content is result.content, "it is converted once"


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("target", [8_000, 16_000])
def test_another_rate_keeps_length_and_pitch(rate: int, target: int) -> None:
    samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    result = decoded(encoded(samples, "FLAC", rate=rate), target)
    assert (result.rate, kept(result)[1]) == (rate, target)
    assert len(result.samples) == target
    assert abs(pitch(result.samples, target) - 440) < 2
    assert np.abs(result.samples[100:-100]).max() / 2**15 == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("rate", [44_100, 16_000, 22_050, 6_000, 48_000, 11_025])
def test_resampling_is_scipys(rate: int) -> None:
    samples = played(3, 0.5, rate)
    up, down = RATE // math.gcd(rate, RATE), rate // math.gcd(rate, RATE)
    expected = np.rint(resample_poly(samples, up, down) * 2**15)
    assert np.array_equal(decoded(encoded(samples, rate=rate)).samples, expected)


@pytest.mark.parametrize("rate", [44_101, 383_987, 4_001])
def test_a_rate_that_nobody_uses_takes_no_filter_of_millions(rate: int) -> None:
    samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    content = encoded(samples, rate=rate)
    before = time.process_time()
    result = decoded(content)
    assert time.process_time() - before < 3
    assert abs(len(result.samples) - RATE) <= 1
    assert abs(pitch(result.samples, RATE) - 440) < 2


def test_what_the_new_rate_cannot_hold_is_gone_and_not_folded_back() -> None:
    samples = 0.5 * np.sin(2 * np.pi * 7_000 * np.arange(44_100) / 44_100) * np.hanning(44_100)
    with pytest.raises(Unfit, match="is silent throughout"):
        decoded(encoded(samples, rate=44_100), 8_000)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_channels_are_averaged(count: int) -> None:
    result = decoded(encoded(channels(count), "WAV", "FLOAT"))
    assert result.channels == count
    assert np.abs(result.samples / 2**15 - played(0) / count).max() < 2**-14


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "PCM_24", "FLOAT", "ULAW", "ALAW"])
def test_clipped_samples_are_counted_in_every_encoding(subtype: str) -> None:
    loud = np.clip(4 * played(3), -1, 1)
    share = float((np.abs(loud) == 1).mean())
    assert 0.2 < share < 0.9
    assert decoded(encoded(loud, "WAV", subtype)).clipped == pytest.approx(share, abs=0.03)
    assert decoded(encoded(played(3), "WAV", subtype)).clipped == 0


def test_one_clipped_channel_shows() -> None:
    pair = np.stack([np.clip(4 * played(3), -1, 1), 0.1 * played(4)], axis=1)
    assert 0.1 < decoded(encoded(pair)).clipped < 0.5


def test_what_is_louder_than_full_scale_is_clipped() -> None:
    result = decoded(encoded(8 * played(3), "WAV", "FLOAT"))
    assert (result.samples.max(), result.samples.min()) == (2**15 - 1, -(2**15))
    assert result.clipped > 0.5


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0.5, 0), (0, 1.25), (0.25, 0.5)])
def test_silence_at_the_edges_is_measured_and_stays(before: float, after: float) -> None:
    result = decoded(encoded(still(before, after)))
    assert result.silence == pytest.approx((before, after), abs=0.005)
    assert len(result.samples) == round((before + 0.25 + after) * RATE)


def test_a_single_sample_is_a_sound() -> None:
    for value in (2**14, -(2**15), 2**15 - 1):
        result = decoded(encoded(np.array([value], dtype=np.int16)))
        assert kept(result)[0].tolist() == [value]


def test_a_wav_that_was_written_to_a_pipe_is_whole() -> None:
    content = bytearray(encoded(played(1)))
    assert content[36:40] == b"data"
    for size in (0xFFFF_FFFF, 0x7FFF_F000):  # of FFmpeg, of espeak-ng
        content[40:44] = size.to_bytes(4, "little")
        assert np.array_equal(decoded(bytes(content)).samples, decoded(encoded(played(1))).samples)


def test_a_flac_that_does_not_say_its_length_is_refused() -> None:
    with pytest.raises(Unfit, match=r"does not say its length; encode it again"):
        decoded(declared_longer(0))


def mp3(seconds: float, tagged: bool, rate: int = 22_050) -> bytes:
    """An MP3 as FFmpeg writes it, with or without the frame that tells its length."""
    buffer = io.BytesIO()
    whole = (played(1, seconds, rate) * 2**15).astype(np.int16)[None]
    with av.open(buffer, "w", format="mp3", options={"write_xing": str(int(tagged))}) as container:
        stream: Any = container.add_stream("mp3", rate=rate)
        stream.layout = "mono"
        for at in range(0, whole.shape[1], 576):
            frame = av.AudioFrame.from_ndarray(whole[:, at : at + 576], format="s16p", layout="mono")
            frame.sample_rate, frame.pts = rate, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("rate", [22_050, 44_100])
def test_an_mp3_need_not_say_its_length(seconds: float, rate: int) -> None:
    assert len(decoded(mp3(seconds, True, rate)).samples) == pytest.approx(seconds * RATE, abs=1)
    assert len(decoded(mp3(seconds, False, rate)).samples) == pytest.approx(seconds * RATE, abs=0.1 * RATE)
    with pytest.raises(Unfit, match="cut off"):
        decoded(mp3(seconds, True, rate)[:-1500])
    with pytest.raises(Unfit, match="max_seconds"):
        decoded(mp3(2.5, False, rate))


def test_what_is_too_long_is_not_decoded(tmp_path: Path) -> None:
    content = encoded(np.zeros(RATE * 600), "FLAC")  # ten minutes of silence: a few thousand bytes
    assert len(content) < 20_000
    (tmp_path / "long").write_bytes(content)
    (tmp_path / "short").write_bytes(flac(0))
    code = """
import pathlib, sys
from tasks.multimodal.picture_files import Unfit
from tasks.multimodal.sound_files import decode
def peak():
    return int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
content = pathlib.Path(sys.argv[1]).read_bytes()
decode(pathlib.Path(sys.argv[2]).read_bytes(), None, 8000, 2.0, 0.01)
before = peak()
try:
    decode(content, None, 8000, float(sys.argv[3]), 0.01)
except Unfit as e:
    print(e, file=sys.stderr)
print(peak() - before)
"""

    def kilobytes(seconds: float) -> tuple[int, str]:
        command = [sys.executable, "-c", code, str(tmp_path / "long"), str(tmp_path / "short"), str(seconds)]
        done = subprocess.run(command, check=True, cwd=REPO, capture_output=True, text=True)
        return int(done.stdout), done.stderr

    decoded_whole, reason = kilobytes(601)
    assert "is silent throughout" in reason
    assert decoded_whole > 30_000, "what is decoded shows"
    refused, reason = kilobytes(599)
    assert "lasts 600.0 s, over sounds.max_seconds (599)" in reason
    assert refused < 3_000


def test_names_claim_formats() -> None:
    names = ("a/b.WAV", "a.flac", "a.mp3", "a.oga", "a.opus", "noname", "a.txt", "")
    assert [format_of(name) for name in names] == ["WAV", "FLAC", "MP3", "Ogg", "Ogg", None, None, None]


def test_the_same_sound_gives_the_same_bytes() -> None:
    content = encoded(played(1, 1.0, 44_100), rate=44_100)
    assert decoded(content).content == decoded(content).content
    assert declared_longer(0.25) == flac(0)
