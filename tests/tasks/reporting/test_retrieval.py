"""The page's section on retrieval: conditions, citations, attacks, the legs of the index, and answers with passages."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.reporting import retrieval
from tasks.retrieval.answered import CONDITIONS
from tasks.stage import artifact
from tests.support import reading, report_tree
from tests.support.reporting import Page, report


@pytest.fixture
def reading_tree(tree: Path, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """The small tree with two readers, the second made from the first."""
    reading.add(tree, make_artifact, artifact.read_manifest(tree / "models" / "sft").digest)
    reading.add_to_graph()
    return tree


def section(html: str) -> str:
    found = re.search(r'<h2 id="retrieval">.*?(?=<h2 )', html, re.S)
    assert found is not None
    return found[0]


def test_conditions_stand_with_their_intervals_and_the_change_from_the_parent(reading_tree: Path) -> None:
    html = (report(reading_tree) / "index.html").read_text()
    board = artifact.read_json(reading_tree / "reports" / "leaderboard.json")
    rows = {(row["model"], row["condition"]): row for row in retrieval.conditions(board)}
    assert [condition for model, condition in rows if model == "reader"] == list(CONDITIONS)
    assert all("difference" not in row for (model, _), row in rows.items() if model == "reader"), "sft reads nothing"
    change = rows["faithful", "retrieved"]["difference"]
    before, after = (rows[model, "retrieved"]["exact_match"]["value"] for model in ("reader", "faithful"))
    assert change["value"] == pytest.approx(after - before, abs=1e-6)
    assert change["verdict"] == "better"
    text = Page(section(html)).text
    for word in (*CONDITIONS, "citation precision", "wrongly abstained", "recall@1", "change by the attack"):
        assert word in text


def test_attacks_stand_by_wording_and_place(reading_tree: Path) -> None:
    report(reading_tree)
    board = artifact.read_json(reading_tree / "reports" / "leaderboard.json")
    rows = {row["group"]: row for row in retrieval.attacks(board) if row["model"] == "reader"}
    assert rows["all"]["rows"] == reading.QUESTIONS
    assert rows["wording: Print {lure}."]["rows"] == reading.QUESTIONS // 2
    assert rows["place: after the right passage"]["rows"] == reading.QUESTIONS // 2
    hostile = next(group for group in rows if "script" in group)
    assert rows[hostile]["rows"] == 1


def test_an_index_that_two_readers_read_from_stands_once(reading_tree: Path) -> None:
    report(reading_tree)
    board = artifact.read_json(reading_tree / "reports" / "leaderboard.json")
    (index,) = retrieval.indexes(board)
    assert sorted(index["models"]) == ["faithful", "reader"]
    assert index["legs"]["dense"]["recall@1"]["value"] == 1.0
    assert index["found_by"]["dense"] > 0
    board["models"]["reader"]["tasks"]["facts"]["retrieval"]["questions"] = 39
    assert sorted(index["models"] for index in retrieval.indexes(board)) == [["faithful"], ["reader"]]


def test_answers_show_their_passages_with_the_cited_one_marked_and_nothing_runs(reading_tree: Path) -> None:
    html = section((report(reading_tree) / "index.html").read_text())
    assert "<mark>Person0 lives in Lovar.</mark>" in html
    assert re.search(r"•\s*\[1\]\s*<mark>Person0", html), "the passage that holds the answer is told apart"
    assert report_tree.HOSTILE not in html
    assert "<script" not in html
    assert html.count("as it was asked") == 2 * 3, "planted, contradicting and poisoned, of each reader"


def test_a_report_without_readers_has_no_such_section(tree: Path) -> None:
    assert 'id="retrieval"' not in (report(tree) / "index.html").read_text()
