"""One picture's file: what a person sees is kept, and what is no picture is refused with a reason."""

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.multimodal.picture_files import Unfit, decode, format_of, shown
from tests.conftest import REPO
from tests.support.drawings import bad_files, bomb, deep_png, drawn, encoded, halves, moving, plain, turned

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
BAD = bad_files()
KINDS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")


def corner(content: bytes) -> tuple[Any, tuple[str, ...]]:
    """The colour at the upper left, and what was changed."""
    result = decode(content, None, 250_000)
    assert result.image.mode == "RGB"
    return result.image.getpixel((0, 0)), result.changes


@pytest.mark.parametrize("name", sorted(BAD.keys() - {"empty.png", "heavy.png"}))
def test_what_is_no_picture_is_refused_with_a_reason(name: str) -> None:
    content, reason = BAD[name]
    with pytest.raises(Unfit) as e:
        decode(content, format_of(name), 250_000)
    assert reason in str(e.value)
    assert "0x" not in str(e.value), "an address in memory makes the reason another one with every run"
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_not_decoded(kind: str) -> None:
    content = bomb(kind)
    assert len(content) < 3_000
    with pytest.raises(Unfit, match=r"declares \d{9} pixels, over pictures.max_pixels"):
        decode(content, None, 250_000)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / kind).write_bytes(bomb(kind))
    (tmp_path / "large").write_bytes(encoded(plain("red", size=(4000, 4000))))
    code = """
import pathlib, sys
from tasks.multimodal.picture_files import Unfit, decode
decode(pathlib.Path(sys.argv[1]).read_bytes(), None, int(sys.argv[2]))
def peak():
    return int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
for name in sys.argv[3:]:
    try:
        decode(pathlib.Path(name).read_bytes(), None, int(sys.argv[2]))
    except Unfit:
        pass
print(peak() - before)
"""
    (tmp_path / "small").write_bytes(encoded(plain("red")))

    def kilobytes(names: Sequence[str], most: int) -> int:
        paths = [str(tmp_path / name) for name in ("small", *names)]
        command = [sys.executable, "-c", code, paths[0], str(most), *paths[1:]]
        return int(subprocess.run(command, check=True, cwd=REPO, capture_output=True, text=True).stdout)

    assert kilobytes(["large"], 16_000_000) > 40_000, "what is decoded shows"
    assert kilobytes(KINDS, 250_000) < 10_000


def test_the_bound_on_pixels_is_exact_and_pillow_keeps_its_own() -> None:
    own = Image.MAX_IMAGE_PIXELS
    content = encoded(plain("red", size=(2000, 1000)))
    assert decode(content, None, 2_000_000).image.size == (2000, 1000)
    with pytest.raises(Unfit, match=r"over pictures\.max_pixels"):
        decode(content, None, 1_999_999)
    assert own == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_file_about_which_nothing_is_special_is_kept_as_it_is(kind: str, suffix: str, mode: str) -> None:
    content = encoded(drawn(1).convert(mode), kind)
    result = decode(content, kind, 250_000)
    assert (result.content, result.suffix, result.changes) == (content, suffix, ())


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_become_png(kind: str) -> None:
    result = decode(encoded(drawn(1).convert("L"), kind), kind, 250_000)
    assert result.suffix == ".png"
    again = decode(result.content, "PNG", 250_000)
    assert again.changes == ()
    assert np.array_equal(np.asarray(again.image), np.asarray(drawn(1).convert("L").convert("RGB")))


def test_cmyk_as_adobe_writes_it_has_the_right_colours() -> None:
    inks = {(0, 255, 255, 0): RED, (255, 255, 0, 0): BLUE, (0, 0, 0, 0): WHITE, (0, 0, 0, 255): (0, 0, 0)}
    for ink, colour in inks.items():
        content = encoded(plain(ink, "CMYK"), "JPEG", quality=100)
        assert b"Adobe" in content[:64]
        with Image.open(io.BytesIO(content)) as raw:
            raw.tile = [tile._replace(args=("CMYK", "")) for tile in raw.tile]
            stored = raw.getpixel((0, 0))
        assert np.allclose(np.array(stored), [255 - part for part in ink], atol=3), "inverted in the file, as by Adobe"
        seen, changes = corner(content)
        assert np.allclose(seen, colour, atol=3)
        assert changes == ("CMYK",)


def test_sixteen_bits_are_divided_and_dark_ones_stay_dark() -> None:
    bright, dark = np.full((4, 4), 65535), np.full((4, 4), 200)
    assert corner(deep_png(bright)) == (WHITE, ("16 bit",))
    assert corner(deep_png(dark)) == ((1, 1, 1), ("16 bit",))
    colour = np.zeros((4, 4, 3), dtype=int)
    colour[:] = (65535, 0, 128 * 257)
    assert corner(deep_png(colour)) == ((255, 0, 128), ("16 bit",))


@pytest.mark.parametrize(
    ("content", "colour", "changes"),
    [
        (encoded(plain((255, 0, 0, 0), "RGBA")), WHITE, ("transparency",)),
        (encoded(plain((255, 0, 0, 255), "RGBA")), RED, ("transparency",)),
        (encoded(plain((0, 128), "LA")), (127, 127, 127), ("transparency",)),
        (encoded(plain(RED), transparency=RED), WHITE, ("transparency",)),
        (encoded(plain(7, "L"), transparency=7), WHITE, ("transparency",)),
        (encoded(plain((255, 0, 0, 0), "RGBA"), "WEBP", lossless=True), WHITE, ("transparency",)),
        (encoded(plain(RED).quantize(4)), RED, ("palette",)),
        (encoded(plain(RED).quantize(4), transparency=0), WHITE, ("palette", "transparency")),
        (encoded(plain(1, "1")), WHITE, ("1 bit",)),
        (encoded(plain(RED), "GIF"), RED, ("palette",)),
        (encoded(plain((0, 255, 255, 0), "CMYK"), "TIFF"), RED, ("CMYK",)),
    ],
)
def test_what_a_person_sees_is_kept(content: bytes, colour: Any, changes: tuple[str, ...]) -> None:
    seen, changed = corner(content)
    assert np.allclose(seen, colour, atol=1)
    assert changed == changes
    kept = decode(content, None, 250_000).content
    with Image.open(io.BytesIO(kept)) as again:
        assert again.mode == "RGB"
        assert "transparency" not in again.info
        assert np.allclose(np.array(again.getpixel((0, 0))), colour, atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "size", "reddest"),
    [(2, (40, 20), "right"), (3, (40, 20), "right"), (4, (40, 20), "left"), (5, (20, 40), "top"),
     (6, (20, 40), "top"), (7, (20, 40), "bottom"), (8, (20, 40), "bottom")],
)  # fmt: skip
def test_pictures_are_turned_as_their_exif_says(
    kind: str, orientation: int, size: tuple[int, int], reddest: str
) -> None:
    result = decode(turned(orientation, kind), kind, 250_000)
    assert result.changes == ("turned by EXIF",)
    assert result.image.size == size
    pixels = np.asarray(result.image, dtype=int)
    red = pixels[:, :, 0] - pixels[:, :, 2]
    half = {"left": red[:, :18], "right": red[:, 22:], "top": red[:18], "bottom": red[22:]}
    assert half[reddest].min() > 100
    assert decode(result.content, "PNG", 250_000).changes == (), "it is turned once"


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_that_turns_nothing_changes_nothing(orientation: int) -> None:
    content = turned(orientation)
    assert decode(content, "JPEG", 250_000).content == content


def test_damaged_exif_costs_no_picture() -> None:
    content = encoded(halves(RED, BLUE), "JPEG")
    damaged = content[:2] + b"\xff\xe1\x00\x28Exif\0\0" + b"rubbish!" * 4 + content[2:]
    assert decode(damaged, "JPEG", 250_000).content == damaged


def test_a_cameras_second_picture_is_no_motion() -> None:
    content = encoded(drawn(1), "MPO", save_all=True, append_images=[drawn(1).resize((32, 32))])
    result = decode(content, "JPEG", 250_000)
    assert (result.content, result.suffix, result.image.size) == (content, ".jpg", drawn(1).size)


def test_a_profile_of_another_kind_of_colour_is_not_handed_on() -> None:
    content = encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG", icc_profile=b"four colours")
    assert b"iCCP" not in decode(content, "JPEG", 250_000).content


def test_one_frame_that_could_move_is_a_picture() -> None:
    for kind in ("GIF", "WEBP", "PNG"):
        content = encoded(plain("red"), kind, save_all=True)
        assert np.allclose(corner(content)[0], RED, atol=3)
        with pytest.raises(Unfit, match="moves"):
            decode(moving(kind), kind, 250_000)


def test_names_in_messages_are_one_short_printable_line() -> None:
    assert shown("a\nb\x00\ud800c.png") == "a b\\x00?c.png"
    assert len(shown("x" * 1000)) < 130
    assert (format_of("a/b.JPG"), format_of("a.tif"), format_of("noname"), format_of("")) == (
        "JPEG",
        "TIFF",
        None,
        None,
    )
