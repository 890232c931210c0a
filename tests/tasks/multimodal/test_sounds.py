"""Sounds as models are given them: read from the archive, whole or with a message."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tasks.multimodal.images import Archive
from tasks.multimodal.sounds import AUDIO, has_audio, sound
from tasks.stage.data_folder import MEDIA
from tasks.stage.errors import ArtifactError
from tests.support.recordings import RATE, flac, played


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with an archive of sounds, and some that are none."""
    folder = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(folder / MEDIA, "w") as archive:
        for seed in range(10):
            archive.writestr(f"{seed}.flac", flac(seed))
        archive.writestr("cut.flac", flac(0)[:200])
        archive.writestr("page.flac", b"<html>")
    return folder


def test_a_sound_is_read_as_it_was_kept(data: Path) -> None:
    archive = Archive(data)
    for seed in range(10):
        samples, rate = sound(archive, f"{seed}.flac")
        assert (rate, samples.dtype, samples.shape) == (RATE, np.float32, (RATE // 4,))
        assert np.array_equal(samples, played(seed).astype(np.float32))


def test_full_scale_is_one(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array([-(2**15), 2**14, 0], dtype=np.int16), RATE, format="FLAC")
    with zipfile.ZipFile(tmp_path / MEDIA, "w") as archive:
        archive.writestr("a.flac", buffer.getvalue())
    assert sound(Archive(tmp_path), "a.flac")[0].tolist() == [-1.0, 0.5, 0.0]


@pytest.mark.parametrize("name", ["gone.flac", "cut.flac", "page.flac"])
def test_what_cannot_be_read_is_named(data: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=rf"{name}.* cannot be .*; run the stage of this data again") as e:
        sound(Archive(data), name)
    assert "0x" not in str(e.value)


def test_rows_have_sounds_where_one_has() -> None:
    assert AUDIO == "audio"
    assert has_audio([{"audio": []}, {"audio": ["a.flac"]}])
    assert not has_audio([{"audio": []}, {"audio": None}, {}, {"images": ["a.png"]}])
    assert not has_audio([])
