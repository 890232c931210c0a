"""Pictures of a data artifact, as trainers and graders are given them: decoded when they are needed."""

import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.stage.data_folder import MEDIA
from tasks.stage.errors import ArtifactError

IMAGES = "images"
"""Column with the names of a row's pictures."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""What an archive holds."""


def has_images(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any of the rows has pictures."""
    return any(row.get(IMAGES) for row in rows)


class Archive:
    """The archive of a data artifact. It is opened anew in every process that reads it."""

    def __init__(self, data: Path) -> None:
        """Args: data: the data artifact."""
        self._path = data / MEDIA
        self._file: zipfile.ZipFile | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: two processes that share one would read each other's bytes."""
        return {"_path": self._path, "_file": None, "_process": 0}

    def read(self, name: str) -> bytes:
        """Read one file. Raises ArtifactError when it is not there, or not whole."""
        try:
            if self._file is None or self._process != os.getpid():  # a forked process inherits the open file
                self._file, self._process = zipfile.ZipFile(self._path), os.getpid()
            return self._file.read(name)
        except (KeyError, OSError, zipfile.BadZipFile) as e:
            raise self._broken(name, e) from None

    def image(self, name: str) -> Any:
        """Decode one picture, a `PIL.Image.Image` in RGB. Raises ArtifactError."""
        with self._opened(name) as image:
            return image.convert("RGB")

    def size(self, name: str) -> tuple[int, int]:
        """Read the width and height of a picture, in pixels, without decoding it. Raises ArtifactError."""
        with self._opened(name) as image:
            width, height = image.size
        return width, height

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        from PIL import Image

        content = self.read(name)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the stage that kept it has asked the recipe's
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                yield image
        except OSError as e:
            raise self._broken(name, e) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit

    def _broken(self, name: str, error: Exception) -> ArtifactError:
        return ArtifactError(f"{self._path}: {name} cannot be read ({error}); run the stage of this data again")


def decoded(dataset: Any, data: Path) -> Any:
    """Return a `datasets.Dataset` whose `images` are pictures in place of names, decoded when a row is read."""
    archive = Archive(data)

    def decode(batch: dict[str, Any]) -> dict[str, Any]:
        if IMAGES not in batch:  # another column is read alone
            return batch
        return {**batch, IMAGES: [[archive.image(name) for name in names or ()] for names in batch[IMAGES]]}

    return dataset.with_transform(decode)


def tokens(reader: Any, row: Mapping[str, Any], archive: Archive) -> int:
    """Count the tokens that a row's pictures take, by the processor.

    Args:
        reader: processor of the model.
        row: with the names of its pictures.
        archive: where they are.
    """
    names = row.get(IMAGES) or ()
    if not names:
        return 0
    sizes = [archive.size(name) for name in names]
    if getattr(reader, "_get_num_multimodal_tokens", None) is None:  # SmolVLM's has no such count
        return sum(_taken(reader, size) for size in sizes)
    counted = reader._get_num_multimodal_tokens(image_sizes=[(height, width) for width, height in sizes])
    return sum(counted["num_image_tokens"])


def _taken(reader: Any, size: tuple[int, int]) -> int:
    """Count what a processor writes in place of one placeholder, for a picture of a size in pixels."""
    from PIL import Image

    blank = Image.new("RGB", size)
    written = reader(text=reader.image_token, images=[blank], add_special_tokens=False)["input_ids"]
    return len(written[0] if isinstance(written[0], list) else written)


def spelt(reader: Any) -> str:
    """Say what is wrong with a text that spells the token of a picture, which the processor would take for one."""
    return (
        f"a text has '{reader.image_token}', which stands for a picture in what the model reads; take it out of the "
        f"data: the pictures of `{IMAGES}` are put before the first question"
    )
