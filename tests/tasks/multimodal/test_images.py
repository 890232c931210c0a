"""Pictures as trainers are given them: read from the archive, whole or with a message, in every process."""

import io
import multiprocessing
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.multimodal.images import Archive, decoded, has_images, tokens
from tasks.stage.data_folder import MEDIA
from tasks.stage.errors import ArtifactError
from tests.support.drawings import drawn, encoded, plain

NAMES = {f"{i}.png": drawn(i) for i in range(40)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with an archive of drawings, and some that are no pictures."""
    folder = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(folder / MEDIA, "w") as archive:
        for name, image in NAMES.items():
            archive.writestr(name, encoded(image))
        archive.writestr("grey.jpg", encoded(plain(77, "L"), "JPEG"))
        archive.writestr("cut.png", encoded(drawn(0))[:200])
        archive.writestr("page.png", b"<html>")
        archive.writestr("moving.gif", encoded(plain("red"), "GIF"))
    return folder


def same(image: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(image), np.asarray(other))


def test_a_picture_is_read_as_it_was_kept(data: Path) -> None:
    archive = Archive(data)
    for name, image in NAMES.items():
        assert same(archive.image(name), image)
        assert archive.size(name) == image.size
    assert archive.image("grey.jpg").mode == "RGB"
    assert np.allclose(archive.image("grey.jpg").getpixel((0, 0)), 77, atol=1)


@pytest.mark.parametrize("name", ["gone.png", "cut.png", "page.png", "moving.gif"])
def test_what_cannot_be_read_is_named(data: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=rf"media\.zip: {name} cannot be read .*; run the stage of this data again"):
        Archive(data).image(name)


def test_an_archive_that_is_damaged_or_missing_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"media\.zip: 0\.png cannot be read"):
        Archive(tmp_path).size("0.png")
    content = bytearray((data / MEDIA).read_bytes())
    content[200] ^= 0xFF  # inside the first file
    (tmp_path / MEDIA).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"0\.png cannot be read \(Bad CRC-32"):
        Archive(tmp_path).read("0.png")
    (tmp_path / MEDIA).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="not a zip file"):
        Archive(tmp_path).read("0.png")


def test_a_picture_that_the_recipe_allowed_is_read_whatever_pillow_thinks_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with zipfile.ZipFile(tmp_path / MEDIA, "w") as archive:
        archive.writestr("a.png", encoded(plain("red", size=(400, 300))))
    assert Archive(tmp_path).image("a.png").size == (400, 300)
    assert Image.MAX_IMAGE_PIXELS == 100


INHERITED: list[Archive] = []


def _read_often(start: int) -> bool:
    names = list(NAMES)[start % 4 :: 4]
    return all(INHERITED[0].read(name) == encoded(NAMES[name]) for _ in range(20) for name in names)


def test_processes_do_not_read_each_others_bytes(data: Path) -> None:
    archive = Archive(data)
    assert archive.read("0.png")  # the file is open now, and a forked process inherits it with its place in it
    INHERITED[:] = [archive]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert all(pool.map(_read_often, range(16), chunksize=1))
    INHERITED.clear()


def test_a_copy_opens_the_archive_anew(data: Path) -> None:
    archive = Archive(data)
    assert archive.read("1.png") == pickle.loads(pickle.dumps(archive)).read("1.png")


def test_a_data_set_is_decoded_when_a_row_is_read(data: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(
        [{"id": "a", "images": ["0.png", "1.png"]}, {"id": "b", "images": []}, {"id": "c", "images": None}]
    )
    seen = decoded(rows, data)
    assert [same(image, NAMES[name]) for image, name in zip(seen[0]["images"], NAMES, strict=False)] == [True, True]
    assert (seen[0]["id"], seen[1]["images"], seen[2]["images"]) == ("a", [], [])
    assert rows[0]["images"] == ["0.png", "1.png"]


def test_rows_have_pictures_where_one_has() -> None:
    assert has_images([{"images": []}, {"images": ["a.png"]}])
    assert not has_images([{"images": []}, {"images": None}, {}])
    assert not has_images([])


def test_tokens_of_pictures_are_the_processors(data: Path) -> None:
    class Reader:
        """Counts a token for each 10 x 10 pixels, as processors of `transformers` do in their own way."""

        image_processor = "of patches"

        def _get_num_multimodal_tokens(self, image_sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
            return {"num_image_tokens": [(height // 10) * 1000 + width // 10 for height, width in image_sizes]}

    archive = Archive(data)
    names = ["0.png", "1.png"]
    expected = sum(NAMES[name].height // 10 * 1000 + NAMES[name].width // 10 for name in names)
    assert tokens(Reader(), {"images": names}, archive) == expected
    assert tokens(Reader(), {"images": []}, archive) == 0
    assert tokens("a tokenizer", {}, archive) == 0


def test_the_bytes_of_a_picture_are_those_of_its_file(data: Path) -> None:
    content = Archive(data).read("grey.jpg")
    assert Image.open(io.BytesIO(content)).format == "JPEG"
