"""The tables of models that see and hear in docs/results.md: own scores beside the controls, and pooled error rates."""

from pathlib import Path
from typing import Any

import pytest

from infra.results import sight
from infra.results.artifacts import Artifacts
from tasks.stage import artifact
from tests.conftest import REPO


def score(value: float) -> dict[str, Any]:
    return {"exact_match": {"value": value, "difference": 0.9 - value, "low": 0.1, "high": 0.2, "rows": 20}}


SEEN: dict[str, Any] = {
    "judged_by": "exact_match",
    "metrics": score(0.9),
    "groups": {"kind": {"which": score(0.95)}},
    "controls": {
        "all": {"noise": score(0.1), "other": score(0.05)},
        "kind=which": {"noise": score(0.9), "other": score(0.06)},
    },
    "answered_blind": {"kind=which": ["noise"]},
}
RATE = {"value": 0.15, "low": 0.1, "high": 0.2, "words": 40}
HEARD: dict[str, Any] = {
    "judged_by": "exact_match",
    "metrics": score(0.8),
    "groups": {"voice": {"a": score(0.7)}},
    "controls": {"all": {"silence": score(0.02)}, "voice=a": {"silence": score(0.03)}},
    "answered_blind": {},
    "word_error_rate": {
        "own": {"all": RATE, "voice=a": {**RATE, "words": 20}},
        "silence": {"all": {"value": 0.97}, "voice=a": {"value": 0.98}},
    },
}


@pytest.fixture
def run(tmp_path: Path) -> Artifacts:
    """The leaderboard of a run with one model that sees and one that hears."""
    models = {"speech": {"stage": "speech", "tasks": {"transcripts": HEARD}}}
    models |= {"vlm": {"stage": "vlm", "tasks": {"digits": SEEN}}}
    (tmp_path / "reports").mkdir()
    artifact.write_json(tmp_path / "reports/leaderboard.json", {"recipe": "tiny", "models": models})
    return Artifacts(tmp_path, REPO / "params/tiny")


def test_what_is_seen_stands_beside_the_controls_and_what_was_not_asked_is_a_dash(run: Artifacts) -> None:
    rows = [row.removeprefix("| `vlm` | `digits.exact_match` | ") for row in sight.sight(run).splitlines()[2:]]
    assert rows == [
        "all | 0.900 | 0.100 | – | 0.050 | – | – | – | seen |",
        "kind=which | 0.950 | 0.900 | – | 0.060 | – | – | – | no better than with noise |",
    ]


def test_what_is_heard_has_a_table_of_its_own(run: Artifacts) -> None:
    head, _, *rows = sight.heard(run).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][:3] == ["model", "metric", "own"]
    assert len(rows) == 1 and rows[0].startswith("| `speech` | `transcripts.exact_match` | 0.800 |")
    assert "| 0.020 |" in rows[0] and rows[0].endswith("| heard |")


def test_word_error_rates_are_those_of_each_voice(run: Artifacts) -> None:
    rows = sight.word_error_rates(run).splitlines()[2:]
    assert [row.split(" | ")[:4] for row in rows] == [
        ["| `speech`", "all", "40", "0.150 [0.100, 0.200]"],
        ["| `speech`", "voice=a", "20", "0.150 [0.100, 0.200]"],
    ]
    assert "| 0.970 |" in rows[0] and "| 0.980 |" in rows[1]
