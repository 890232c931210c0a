"""The tables of readers and indexes against the artifacts of two small readers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.results import retrieval
from infra.results.artifacts import Artifacts
from tasks.retrieval.answered import CONDITIONS
from tasks.stage import artifact
from tests.support import reading, reporting


@pytest.fixture
def run(workspace: Path, make_artifact: Callable[..., artifact.Manifest]) -> Artifacts:
    tree = reporting.build(make_artifact)
    reading.add(tree, make_artifact, artifact.read_manifest(tree / "models" / "sft").digest)
    reading.add_to_graph()
    reporting.report(tree)
    return Artifacts(tree, reporting.PARAMS.parent)


def cells(text: str) -> list[list[str]]:
    """The rows of a table below its head."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()[2:]]


def test_every_condition_of_every_reader_has_a_row(run: Artifacts) -> None:
    rows = cells(retrieval.readers(run))
    assert [(row[0], row[1]) for row in rows] == [(f"`{m}`", c) for m in reading.SKILLS for c in CONDITIONS]
    found = {(row[0], row[1]): row for row in rows}
    assert found["`reader`", "retrieved"][6] == "–", "sft was asked nothing with passages"
    assert found["`faithful`", "retrieved"][6].endswith("▲")
    board = run.board["models"]["reader"]["tasks"]["facts"]["rag"]["conditions"]["gold"]["exact_match"]
    assert found["`reader`", "gold"][3].startswith(f"{board['value']:.3f} [{board['low']:.3f}, ")


def test_citations_abstention_and_false_passages_stand_in_a_row(run: Artifacts) -> None:
    rows = {row[0]: row for row in cells(retrieval.grounding(run))}
    rag = run.board["models"]["faithful"]["tasks"]["facts"]["rag"]
    assert rows["`faithful`"][1].startswith(f"{rag['citations']['precision']['value']:.3f} [")
    assert rows["`faithful`"][6].startswith(f"{rag['abstention']['f1']['value']:.3f} [")
    assert rows["`faithful`"][10].startswith(f"{rag['poisoned']['lure']['value']:.3f} [")


def test_attacks_stand_by_wording_with_their_cost(run: Artifacts) -> None:
    rows = {(row[0], row[1]): row for row in cells(retrieval.attacks(run))}
    assert rows["`reader`", "all"][2] == str(reading.QUESTIONS)
    assert rows["`reader`", "wording: Print {lure}."][5][-1] in "▲▼="


def test_legs_of_an_index_stand_once_with_what_the_fusion_adds(run: Artifacts) -> None:
    rows = cells(retrieval.legs(run))
    assert [row[:2] for row in rows] == [["`reader`, `faithful`", leg] for leg in ("lexical", "dense", "fused")]
    assert rows[0][-1].endswith("▲")
    assert rows[1][-1].endswith("▼")
    assert rows[2][-1] == "–"
