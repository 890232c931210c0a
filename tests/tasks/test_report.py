"""The report stage: the same bytes each time."""

from pathlib import Path

from tasks.stage import artifact
from tests.support.reporting import report


def test_two_runs_write_the_same_bytes(tree: Path) -> None:
    first, second = report(tree), report(tree, out="again")
    assert artifact.verify(first).files == artifact.verify(second).files
