"""The page's section on hearing: word error rates by voice, scores beside those with other sounds, and the sounds."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.reporting import hearing, sight
from tasks.stage import artifact, recipe
from tests.support import report_tree
from tests.support.reporting import PARAMS, Page, report

HEARING: dict[str, Any] = {
    "media": {"spoken": {}},
    "align_speech": {"hearing": {"from": "sft", "data": "spoken"}},
    "speech": {"speech": {"from": "hearing", "data": "spoken", "claim": "spoken_sums.exact_match"}},
    "evaluate_media": {"hearing": "spoken", "speech": "spoken"},
}
MODELS = ["hearing", "speech"]


@pytest.fixture
def hearing_tree(tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """The small tree with a data set of sounds and two models that hear."""
    report_tree.add_hearing(tree, make_artifact, artifact.read_manifest(tree / "models" / "sft").digest)
    file = PARAMS.parent / recipe.FILE
    artifact.write_json(file, artifact.read_json(file) | HEARING)
    return tree


def section(html: str) -> str:
    found = re.search(r'<h2 id="hearing">.*?(?=<h2 )', html, re.S)
    assert found is not None
    return found[0]


def test_rates_stand_by_voice_beside_those_with_other_sounds(hearing_tree: Path) -> None:
    text = Page(section((report(hearing_tree) / "index.html").read_text())).text
    for word in ("error rate", "noise", "silence", "other", "voice=f2", "heard", "no better than with"):
        assert word in text
    leaderboard = artifact.read_json(hearing_tree / "reports" / "leaderboard.json")
    rows = hearing.rates(leaderboard, MODELS)
    groups = ("all", "voice=f2", f"voice={report_tree.HOSTILE}")
    assert {(row["model"], row["task"], row["group"]) for row in rows} == {
        (model, "transcripts", group) for model in MODELS for group in groups
    }
    kept = artifact.read_json(hearing_tree / "metrics" / "speech" / "results.json")["tasks"]["transcripts"]
    for row in rows:
        if row["model"] == "speech":
            rates = kept["word_error_rate"]
            assert {key: row[key] for key in ("value", "low", "high", "words", "errors")} == rates["own"][row["group"]]
            assert row["by"] == {name: rates[name][row["group"]]["value"] for name in ("noise", "silence", "other")}


def test_who_answers_as_well_without_the_sound_is_said(hearing_tree: Path) -> None:
    report(hearing_tree)
    leaderboard = artifact.read_json(hearing_tree / "reports" / "leaderboard.json")
    rows = {(row["model"], row["task"]): row for row in hearing.controls(leaderboard, MODELS)}
    assert set(rows) == {(model, task) for model in MODELS for task in ("transcripts", "spoken_sums")}
    for task in ("transcripts", "spoken_sums"):
        assert rows["speech", task]["verdict"] == "heard"
        assert rows["hearing", task]["verdict"] == "no better than with noise, silence, other"


def test_sight_lists_no_sounds(hearing_tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> None:
    html = (report(hearing_tree) / "index.html").read_text()
    assert 'id="sight"' not in html
    report_tree.add_sight(hearing_tree, make_artifact, artifact.read_manifest(hearing_tree / "models" / "sft").digest)
    file = PARAMS.parent / recipe.FILE
    seeing = {
        "media": {"spoken": {}, "pictures": {}},
        "align": {"sight": {"from": "sft", "data": "pictures"}},
        "vlm": {"vlm": {"from": "sight", "data": "pictures"}},
        "evaluate_media": HEARING["evaluate_media"] | {"sight": "pictures", "vlm": "pictures"},
    }
    artifact.write_json(file, artifact.read_json(file) | seeing)
    html = (report(hearing_tree, out="both") / "index.html").read_text()
    assert 'id="sight"' in html and 'id="hearing"' in html
    leaderboard = artifact.read_json(hearing_tree / "both" / "leaderboard.json")
    models = [*MODELS, "sight", "vlm"]
    assert {row["model"] for row in sight.controls(leaderboard, models)} == {"sight", "vlm"}
    assert {row["model"] for row in hearing.controls(leaderboard, models)} == set(MODELS)
    assert {row["model"] for row in hearing.rates(leaderboard, models)} == set(MODELS)


def test_the_sounds_of_the_questions_are_in_the_page(hearing_tree: Path) -> None:
    html = (report(hearing_tree) / "index.html").read_text()
    page = Page(html)
    assert page.open == []
    sources = re.findall(r'<audio controls src="([^"]*)"></audio>', html)
    assert sources and "<img" not in html
    for source in sources:
        kind, _, content = source.partition(";base64,")
        assert kind == "data:audio/flac" and base64.b64decode(content).startswith(b"fLaC")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert "media-src data:" in policy, "else no browser plays them"
    assert not page.tags & {"script", "iframe", "link", "object", "embed", "base", "form"}


def test_what_a_model_says_is_shown_and_not_obeyed(hearing_tree: Path) -> None:
    html = (report(hearing_tree) / "index.html").read_text()
    assert '<script>alert("x")</script>' in Page(section(html)).text, "the name of a voice"
    assert "<script" not in html and "onerror=alert(1)>" not in html.replace("&gt;", "")


def test_a_recipe_without_sounds_has_no_such_section(tree: Path) -> None:
    html = (report(tree) / "index.html").read_text()
    assert 'id="hearing"' not in html and "#hearing" not in html and "<audio" not in html


def test_the_claim_of_a_model_that_hears_is_judged(hearing_tree: Path) -> None:
    claims = {row["model"]: row for row in artifact.read_json(report(hearing_tree) / "leaderboard.json")["claims"]}
    assert claims["speech"]["parent"] == "hearing"
    assert claims["speech"]["difference"]["verdict"] == "better"
