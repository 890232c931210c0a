"""What a request shows: bytes inside it, files that the operator allows, and nothing else; bounds on both."""

import base64
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flows.serving import media
from flows.serving.media import Media, MediaError, decoded, media_type, read, recorded
from tests.support.drawings import bad_files, bomb, encoded, plain, turned

PNG = encoded(plain("red"))
PLACE = "messages[0].content[1]"


def address(content: bytes, head: str = "data:image/png;base64") -> str:
    return f"{head},{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    "head", ["data:image/png;base64", "DATA:image/png;BASE64", "data:;base64", "data:image/jpeg;name=a.png;base64"]
)
def test_bytes_inside_the_request(head: str) -> None:
    """The type that a client writes is not asked: many write one for all their pictures."""
    assert read(address(PNG, head), PLACE, None) == PNG


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("http://127.0.0.1/a.png", "unsupported_url", "names an address (http:), which this server never fetches"),
        ("HTTPS://example.org/a.png", "unsupported_url", "never fetches"),
        ("ftp://example.org/a.png", "unsupported_url", "never fetches"),
        ("blob:abc", "unsupported_url", "never fetches"),
        ("data:image/png,abc", "invalid_image", "is no data: URL in base64"),
        ("data:image/png;base64", "invalid_image", "is no data: URL in base64"),
        ("data:image/png;base64,a?b=", "invalid_image", "holds no valid base64"),
        ("data:image/png;base64,YQ", "invalid_image", "holds no valid base64"),
        ("data:image/png;base64,é", "invalid_image", "holds no valid base64"),
        ("a.png", "file_not_allowed", "names a file, and this server reads none"),
        ("/etc/passwd", "file_not_allowed", "names a file, and this server reads none"),
        ("file:///etc/passwd", "file_not_allowed", "this server reads none"),
        ("", "file_not_allowed", "this server reads none"),
    ],
)
def test_what_is_not_read(url: str, code: str, message: str) -> None:
    with pytest.raises(MediaError) as error:
        read(url, PLACE, None)
    assert message in str(error.value) and PLACE in str(error.value)
    assert (error.value.place, error.value.code) == (PLACE, code)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that may be read, and what lies beside it."""
    allowed = tmp_path / "allowed"
    (allowed / "deep er").mkdir(parents=True)
    for path in (allowed / "a.png", allowed / "deep er/b.png", tmp_path / "secret.png", tmp_path / "allowed2.png"):
        path.write_bytes(PNG)
    (allowed / "inner.png").symlink_to("deep er/b.png")
    (allowed / "out.png").symlink_to("../secret.png")
    (allowed / "loop.png").symlink_to("loop.png")
    return allowed


@pytest.mark.parametrize("name", ["a.png", "./a.png", "deep er/b.png", "deep er/../a.png", "inner.png"])
def test_files_below_the_folder(folder: Path, name: str) -> None:
    assert read(name, PLACE, folder) == PNG
    assert read(str(folder / name), PLACE, folder) == PNG
    assert read((folder / name).as_uri(), PLACE, folder) == PNG


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "outside of the folder"),
        ("out.png", "outside of the folder"),
        ("/etc/passwd", "outside of the folder"),
        ("file:///etc/passwd", "outside of the folder"),
        ("../allowed2.png", "outside of the folder"),
        ("file://host/a.png", "a file of another machine"),
        ("nothing.png", "names no file below that folder"),
        (".", "names no file below that folder"),
        ("deep er", "names no file below that folder"),
        ("loop.png", "cannot be read"),
        ("a\0.png", "cannot be read"),
        ("a" * 5000, "cannot be read"),
    ],
)
def test_files_elsewhere_are_not_read(folder: Path, name: str, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        read(name, PLACE, folder)


def test_too_many_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_BYTES", 60)
    (folder / "long.png").write_bytes(b"x" * 61)
    (folder / "short.png").write_bytes(b"x" * 60)
    assert read("short.png", PLACE, folder) == read(address(b"x" * 60), PLACE, None) == b"x" * 60
    for url in ("long.png", address(b"x" * 90)):
        with pytest.raises(MediaError, match="has more than 60 bytes") as error:
            read(url, PLACE, folder)
        assert error.value.code == "image_too_large"


@pytest.mark.parametrize("name", sorted(set(bad_files()) - {"bomb.png", "large.png", "heavy.png", "really_a.png"}))
def test_what_no_picture_is_refused_by_its_place(name: str) -> None:
    content, reason = bad_files()[name]
    with pytest.raises(MediaError) as error:
        decoded(Media("image", content, PLACE))
    assert (error.value.place, error.value.code) == (PLACE, "invalid_image")
    assert str(error.value).startswith(f"'{PLACE}': the picture ")
    if content:
        assert reason in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_small_file_of_too_many_pixels_is_not_decoded(kind: str) -> None:
    with pytest.raises(MediaError, match=r"over the bound of this server \(20000000\)"):
        decoded(Media("image", bomb(kind), PLACE))


def test_a_picture_is_decoded_upright() -> None:
    image = decoded(Media("image", turned(6), PLACE))
    assert (image.mode, image.size) == ("RGB", (20, 40))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_type_is_told_by_the_bytes(kind: str) -> None:
    assert media_type(encoded(plain("red"), kind)) == f"image/{kind.lower()}"
    assert media_type(b"what") == "application/octet-stream"


def test_a_trace_has_a_hash_and_no_bytes() -> None:
    import hashlib

    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]},
    ]
    shown = [Media("image", PNG, PLACE), Media("image", encoded(Image.new("RGB", (2, 2)), "JPEG"), PLACE)]
    written = recorded(turns, shown)
    assert written[0] == turns[0]
    first, second, text = written[1]["content"]
    digest = hashlib.sha256(PNG).hexdigest()
    assert first == {"type": "image", "sha256": digest, "bytes": len(PNG), "media_type": "image/png"}
    assert second["media_type"] == "image/jpeg" and text == {"type": "text", "text": "Which?"}
