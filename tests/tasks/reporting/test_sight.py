"""The page's section on sight: scores beside those with other pictures, and the pictures of the questions shown."""

import base64
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.reporting import page as html_page
from tasks.reporting import sight
from tasks.stage import artifact, recipe
from tests.support import report_tree
from tests.support.relinking import remake
from tests.support.reporting import PARAMS, Page, report

SEEING: dict[str, Any] = {
    "media": {"pictures": {}},
    "align": {"sight": {"from": "sft", "data": "pictures"}},
    "vlm": {"vlm": {"from": "sight", "data": "pictures", "claim": "digits.exact_match"}},
    "evaluate_media": {"sight": "pictures", "vlm": "pictures"},
}


@pytest.fixture
def seeing_tree(tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """The small tree with a data set of pictures and two models that see."""
    report_tree.add_sight(tree, make_artifact, artifact.read_manifest(tree / "models" / "sft").digest)
    file = PARAMS.parent / recipe.FILE
    artifact.write_json(file, artifact.read_json(file) | SEEING)
    return tree


def section(html: str) -> str:
    """The text of the section on sight."""
    found = re.search(r'<h2 id="sight">.*?(?=<h2 )', html, re.S)
    assert found is not None
    return Page(found[0]).text


def test_scores_stand_beside_those_with_other_pictures(seeing_tree: Path) -> None:
    html = (report(seeing_tree) / "index.html").read_text()
    text = section(html)
    for word in ("own picture", "noise", "other", "kind=seen", "no better than with noise, other", "seen"):
        assert word in text
    leaderboard = artifact.read_json(seeing_tree / "reports" / "leaderboard.json")
    rows = {(row["model"], row["group"]): row for row in sight.controls(leaderboard, ["sight", "vlm"])}
    assert set(rows) == {(m, g) for m in ("sight", "vlm") for g in ("all", "kind=seen", f"kind={report_tree.HOSTILE}")}
    assert rows["vlm", "kind=seen"]["blind"] == []
    assert rows["vlm", f"kind={report_tree.HOSTILE}"]["blind"] == ["noise", "other"]
    tasks = artifact.read_json(seeing_tree / "metrics" / "vlm" / "results.json")["tasks"]["digits"]
    assert rows["vlm", "all"]["score"] == tasks["metrics"]["exact_match"]["value"]
    assert rows["vlm", "kind=seen"]["score"] == tasks["groups"]["kind"]["seen"]["exact_match"]["value"]
    assert rows["vlm", "kind=seen"]["by"]["noise"] == tasks["controls"]["kind=seen"]["noise"]["exact_match"]


def test_what_was_not_made_here_is_said_and_nothing_waits_for_it(seeing_tree: Path) -> None:
    complete = (report(seeing_tree) / "index.html").read_text()
    assert "Not made" not in complete
    assert "left_out" not in artifact.read_json(seeing_tree / "reports" / "leaderboard.json")
    file = PARAMS.parent / recipe.FILE
    values = artifact.read_json(file)
    hearing = {"from": "sft", "data": "spoken", "claim": "digits.exact_match"}
    values["media"] |= {"spoken": {"needs": "no_such_module_of_polm"}}
    values["align"] |= {"hearing": hearing}
    values["evaluate_media"] |= {"hearing": "spoken"}
    artifact.write_json(file, values)
    html = (report(seeing_tree) / "index.html").read_text()
    absent = "no_such_module_of_polm"
    remedy = f"{absent} is in no extra of polm: install the package that has it, or correct `needs`"
    notice = f"left out here, without {absent}: spoken, hearing; {remedy}"
    assert re.findall(r"Not made[^\n]*", Page(html).text) == [f"Not made: {notice}"]
    board = artifact.read_json(seeing_tree / "reports" / "leaderboard.json")
    assert board["left_out"] == [notice]
    assert "hearing" not in board["models"]
    assert "vlm" in board["models"]


def test_sounds_of_a_data_set_are_counted(seeing_tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> None:
    media = seeing_tree / "media" / "pictures"
    facts = {"files": 1200, "bytes": 420, "sampling_rate": 8000, "clipped": 3, "long_silence": 4}
    changes = {"resampled": {"16000 Hz": 5}, "mixed_down": {}, "converted": {"24 bit": 2}}
    artifact.write_json(media / "report.json", artifact.read_json(media / "report.json") | {"sounds": facts | changes})
    remake(seeing_tree, media, make_artifact)
    text = Page((report(seeing_tree) / "index.html").read_text()).text
    (said,) = re.findall(r"Sounds: [^.]+", text)
    assert " ".join(said.split()) == (
        "Sounds: 1 200 in 420 B at 8 000 Hz; 3 clipped, 4 with a long silence; 5 from 16000 Hz; 2 from 24 bit"
    )


def test_the_pictures_of_the_questions_are_in_the_page(seeing_tree: Path) -> None:
    html = (report(seeing_tree) / "index.html").read_text()
    page = Page(html)
    assert page.open == []
    sources = [value for key, value in page.attributes if key == "src"]
    assert sources
    for source in sources:
        kind, _, content = source.partition(";base64,")
        assert kind == "data:image/png" and base64.b64decode(content).startswith(b"\x89PNG")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    allowed = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    assert policy == allowed, "else no browser shows them"
    assert not page.tags & {"script", "iframe", "link", "object", "embed", "base", "form"}
    assert not re.search(r"https?:|url\(|@import", html)


def test_what_a_row_says_is_shown_and_not_obeyed(seeing_tree: Path) -> None:
    html = (report(seeing_tree) / "index.html").read_text()
    assert '<script>alert("x")</script>' in section(html)
    assert "<script" not in html and "onerror=alert(1)>" not in html.replace("&gt;", "")


def test_the_claim_of_a_model_that_sees_is_judged(seeing_tree: Path) -> None:
    out = report(seeing_tree)
    claims = {row["model"]: row for row in artifact.read_json(out / "leaderboard.json")["claims"]}
    assert claims["vlm"]["parent"] == "sight"
    assert claims["vlm"]["difference"]["verdict"] == "better"


def test_the_data_set_of_pictures_has_a_part_of_its_own(seeing_tree: Path) -> None:
    text = Page((report(seeing_tree) / "index.html").read_text()).text
    assert "Pictures: 6 in 420 B, the longer side at most 8 pixels; converted: 2 palette." in text


def test_a_recipe_without_pictures_has_no_such_section(tree: Path) -> None:
    html = (report(tree) / "index.html").read_text()
    page = Page(html)
    assert "#sight" not in [value for key, value in page.attributes if key == "href"]
    assert 'id="sight"' not in html and "img-src" not in html and "no better than" not in html


def row(group: str, value: float, *names: str) -> dict[str, Any]:
    """One task of a model that was asked with these controls."""
    figures = {"m": {"value": 0.0, "difference": value, "low": value, "high": value}}
    metrics = {"m": {"value": value}}
    return {
        "metrics": {"m": {"value": -1.0}}, "groups": {"side": {"": metrics, "a=b": metrics}},
        "controls": {group: dict.fromkeys(names, figures)}, "answered_blind": {}, "judged_by": "m",
    }  # fmt: skip


@pytest.mark.parametrize(("group", "score"), [("all", -1.0), ("side=", 0.5), ("side=a=b", 0.5)])
def test_a_group_has_its_own_score(group: str, score: float) -> None:
    leaderboard = {"models": {"vlm": {"tasks": {"digits": row(group, 0.5, "noise")}}}}
    (found,) = sight.controls(leaderboard, ["vlm"])
    assert (found["group"], found["score"]) == (group, score)


def test_a_control_of_one_task_alone_is_shown_too(seeing_tree: Path) -> None:
    path = seeing_tree / "metrics" / "vlm" / "results.json"
    results = artifact.read_json(path)
    for by_control in results["tasks"]["digits"]["controls"].values():
        by_control["black"] = by_control["noise"]
    artifact.write_json(path, results)
    manifest = artifact.read_manifest(path.parent)
    files = manifest.files | {"results.json": artifact.sha256(path)}
    artifact.write_json(path.parent / artifact.MANIFEST, manifest.model_copy(update={"files": files}).model_dump())
    text = section((report(seeing_tree) / "index.html").read_text())
    assert "black" in text and text.count("–") >= 3, "the other model was not asked with it"


def test_pictures_of_a_data_set_of_words_and_pictures_are_found_and_large_ones_left_out(seeing_tree: Path) -> None:

    archive = seeing_tree / "media" / "pictures" / "media.zip"
    shutil.copy(archive, seeing_tree / "data" / "media.zip")
    with zipfile.ZipFile(seeing_tree / "data" / "media.zip", "a") as file:
        file.writestr("large.png", bytes(sight.LARGEST + 1))
    name = f"{0:032x}.png"
    shown: dict[str, Any] = {"digits": [{"images": [name, "large.png", "missing.png"]}, {"question": "no picture"}]}
    assert set(sight.pictures({"data": seeing_tree / "data"}, shown)) == {name}
    assert sight.pictures({"data": seeing_tree / "data"}, {"sums": [{"question": "?"}]}) == {}


def test_the_artifacts_of_a_graph_are_found(seeing_tree: Path) -> None:
    found = html_page.folders(seeing_tree, recipe.read(PARAMS.parent / recipe.FILE))
    assert {"data", "media/pictures", "models/sight", "metrics/vlm"} <= set(found)
