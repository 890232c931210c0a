"""The report of a part of the DAG."""

from pathlib import Path

from tasks.reporting import local
from tasks.stage import artifact
from tests.support.reporting import PARAMS, Page


def test_a_part_of_the_dag_has_a_page_and_a_leaderboard_of_its_own(tree: Path) -> None:
    """What lies there from another run stays out: it may be of other data."""
    parts = ("data", "models/base", "models/sft", "metrics/base", "metrics/sft")
    local.main(PARAMS, Path("local"), [tree / part for part in parts])
    board = artifact.read_json(Path("local/leaderboard.json"))
    assert set(board["models"]) == {"base", "sft"}
    assert [row["model"] for row in board["claims"]] == ["sft"], (
        "dpo, which the recipe claims something of, is not here"
    )
    assert "dpo" not in Page(Path("local/index.html").read_text()).text
