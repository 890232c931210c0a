"""The script for the README's pictures: a page in headless Chromium, and errors that name a remedy."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from infra import images

HTML = """
<style>body {margin: 0; background: #00f}</style>
<p id="late"></p>
<script>setTimeout(() => late.id = "there", 300)</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the program chromium")
def test_a_picture_shows_the_part_of_the_page_once_its_element_is_there(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(HTML, encoding="utf-8")
    with images.browser() as port:
        tab = images.Page(port, 400, 300, dark=False)
        tab.open(page.as_uri(), "document.querySelector('#there')", settles=0)
        tab.style("body {background: #f00}")
        assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 0, 0)"
        tab.picture(tmp_path / "images/part.png", 10, 20, 200, 100)
    content = (tmp_path / "images/part.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (300, 150), "1.5 pixels for each CSS pixel"


def test_a_program_that_ends_is_named_with_its_words() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(SystemExit, match=r"images: .*did not start: port 4200 is taken"):
        images.wait(process, lambda: "port 4200 is taken", r"http://(\S+)")


def test_the_browser_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no `chromium` in the PATH; install it"), images.browser():
        pass
