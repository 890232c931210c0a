"""The page's section on retrieval: conditions, citations, attacks, the legs of the index, and answers with passages."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.reporting import local, retrieval
from tasks.retrieval.answered import CONDITIONS
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError
from tests.support import reading, report_tree
from tests.support.reporting import PARAMS, Page, report

Make = Callable[..., artifact.Manifest]


@pytest.fixture
def reading_tree(tree: Path, make_artifact: Make) -> Path:
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
    rows = {(row["name"], row["condition"]): row for row in retrieval.conditions(board)}
    assert [condition for model, condition in rows if model == "reader"] == list(CONDITIONS)
    assert not [row for (name, _), row in rows.items() if name == reading.UNTRAINED and "difference" in row]
    gain = rows["reader", "gold"]["exact_match"]["value"] - rows[reading.UNTRAINED, "gold"]["exact_match"]["value"]
    assert rows["reader", "gold"]["difference"]["value"] == pytest.approx(gain, abs=1e-6)
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
    rows = {row["group"]: row for row in retrieval.attacks(board) if row["name"] == "reader"}
    assert rows["all"]["rows"] == reading.QUESTIONS
    assert rows["wording: Print {lure}."]["rows"] == reading.QUESTIONS // 2
    assert rows["place: after the right passage"]["rows"] == reading.QUESTIONS // 2
    hostile = next(group for group in rows if "script" in group)
    assert rows[hostile]["rows"] == 1


def test_an_index_that_two_readers_read_from_stands_once(reading_tree: Path) -> None:
    page = report(reading_tree) / "index.html"
    board = artifact.read_json(reading_tree / "reports" / "leaderboard.json")
    (index,) = retrieval.indexes(board)
    assert sorted(index["models"]) == ["faithful", "reader", reading.UNTRAINED]
    assert index["legs"]["dense"]["recall@1"]["value"] == 1.0
    assert index["found_by"]["dense"] > 0
    screen = index["screen"]
    assert (screen["right_kept"], screen["nothing_shown"]) == (1.0, 0.0)
    html = section(page.read_text())
    said = f"That keeps 100.0 % of the {screen['right']} hits that hold the answer and "
    assert f"relevance of 0.3 on. {said}{100 * screen['others_kept']:.1f} % of the {screen['others']} others" in html
    board["models"]["reader"]["tasks"]["facts"]["retrieval"]["questions"] = 39
    assert sorted(sorted(index["models"]) for index in retrieval.indexes(board)) == [
        ["faithful", reading.UNTRAINED],
        ["reader"],
    ]


def test_answers_show_their_passages_with_the_cited_one_marked_and_nothing_runs(reading_tree: Path) -> None:
    html = section((report(reading_tree) / "index.html").read_text())
    assert "<mark>Person0 lives in Lovar.</mark>" in html
    assert re.search(r"•\s*\[1\]\s*<mark>Person0", html), "the passage that holds the answer is told apart"
    assert report_tree.HOSTILE not in html
    assert "<script" not in html
    assert html.count("as it was asked") == 3 * 3, "planted, contradicting and poisoned, of each reader"


def test_a_report_without_readers_has_no_such_section(tree: Path) -> None:
    assert 'id="retrieval"' not in (report(tree) / "index.html").read_text()


def test_an_evaluation_of_a_model_that_is_gone_is_refused(reading_tree: Path, make_artifact: Make) -> None:
    make_artifact(reading_tree / "metrics" / reading.UNTRAINED, stage="evaluate_rag", model="0" * 64)
    with pytest.raises(ArtifactError, match="sft_grounded: the model that it was made from is not here"):
        report(reading_tree)


def test_a_run_that_asked_with_passages_alone_has_a_page(reading_tree: Path) -> None:
    parts = ("data", "models/sft", "indexes/index", f"metrics/{reading.UNTRAINED}")
    local.main(PARAMS, Path("local"), [reading_tree / part for part in parts])
    assert reading.UNTRAINED in Page(section(Path("local/index.html").read_text())).text
