"""Optional packages in the doctor: missing ones come with a remedy, and the synthesiser has to speak."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from flows.doctor import checks, optional
from flows.doctor.machine import Finding
from tasks.stage import recipe
from tests.conftest import REPO

ABSENT = "no_such_module_of_polm"


def findings(folder: Path, media: dict[str, Any]) -> list[Finding]:
    graph = {"recipe": "mine", "media": media, "vlm": {"heard": {"from": "base", "data": "spoken"}}}
    (folder / recipe.FILE).write_text(json.dumps(graph | {"evaluate": ["base"], "export": [], "forms": []}))
    return list(optional.packages(folder))


def texts(found: Iterable[Finding]) -> list[tuple[str, str, str, str]]:
    return [(f.level, f.check, f.found, f.remedy) for f in found]


def test_a_missing_module_comes_with_what_is_left_out_and_the_remedy(tmp_path: Path) -> None:
    found = findings(tmp_path, {"spoken": {"needs": f"json, {ABSENT}"}, "photos": {"needs": "PIL"}})
    pillow, here, missing = sorted(found, key=lambda f: f.check)
    assert texts([missing]) == [
        (
            "warn",
            ABSENT,
            f"{ABSENT} is missing; left out: spoken, heard",
            f"{ABSENT} is in no extra of polm: install the package that has it, or correct `needs`",
        )
    ]
    assert texts([here]) == [("ok", "json", "json is here", "")]
    assert pillow.level == "ok"
    assert pillow.found.startswith("PIL 1"), "with the version of what it comes with"


def test_a_recipe_that_needs_nothing_is_not_asked(tmp_path: Path) -> None:
    assert findings(tmp_path, {"spoken": {}}) == []
    assert list(optional.packages(tmp_path / "nowhere")) == []


def test_the_synthesiser_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    (finding,) = findings(tmp_path, {"spoken": {"needs": "espeakng_loader"}})
    assert (finding.level, finding.check) == ("ok", "speech synthesiser")
    assert finding.found.startswith("espeak-ng (espeakng_loader 0.")
    assert finding.found.endswith(") speaks")


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("return __file__", "its library does not load on this system"),
        ("import os; os.kill(os.getpid(), 11)", "does not speak: exit code -11"),
    ],
)
def test_a_package_that_is_broken_fails_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, said: str
) -> None:
    (tmp_path / "espeakng_loader.py").write_text(
        f"def get_data_path(): return '.'\ndef get_library_path():\n    {library}\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPO}")  # of the process that speaks
    (finding,) = findings(tmp_path, {"spoken": {"needs": "espeakng_loader"}})
    assert finding.level == "fail"
    assert said in finding.found
    assert finding.remedy == "install it anew: `pip install 'polm[speech]'`"


def test_the_doctor_asks_for_them(workspace: Path) -> None:
    folder = Path("params/mine")
    folder.mkdir(parents=True)
    findings(folder, {"spoken": {"needs": ABSENT}})
    (workspace / "pyproject.toml").write_text((REPO / "pyproject.toml").read_text())
    (finding,) = [f for f in checks.examine("mine") if f.check == ABSENT]
    assert finding.level == "warn"
