"""The tables of readers and indexes against the artifacts of two small readers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.results import retrieval
from infra.results.artifacts import Artifacts
from tasks.retrieval.answered import CONDITIONS
from tasks.retrieval.scores import METRICS
from tasks.stage import artifact, recipe
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
    for name in (reading.UNTRAINED, *reading.SKILLS):
        assert [row[1] for row in rows if row[0] == f"`{name}`"] == list(CONDITIONS)
    assert len(rows) == 3 * len(CONDITIONS)
    found = {(row[0], row[1]): row for row in rows}
    assert found["`sft_grounded`", "retrieved"][6] == "–"
    assert found["`reader`", "retrieved"][6].endswith("▲"), "over the model that it was made from"
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
    assert [row[1] for row in rows] == ["lexical", "dense", "fused"]
    assert {row[0] for row in rows} == {"`reader`, `faithful`, `sft_grounded`"}
    assert rows[0][-1].endswith("▲")
    assert rows[1][-1].endswith("▼")
    assert rows[2][-1] == "–"


def test_a_retriever_has_a_row_for_each_search(run: Artifacts) -> None:
    def scores(value: float) -> dict[str, dict[str, float]]:
        return {metric: {"value": value, "low": value - 0.1, "high": value + 0.1} for metric in METRICS}

    better = {"ndcg@10": {"value": 0.1, "low": 0.05, "high": 0.2, "verdict": "better"}}
    legs = {leg: scores(0.2 + 0.1 * place) for place, leg in enumerate(retrieval.SEARCHES)}
    test = {"scores": legs, "differences": {"after - lexical": better}}
    file = reporting.PARAMS.parent / recipe.FILE
    graph = artifact.read_json(file) | {"retriever": {"retriever": {"chunks": "passages", "data": "facts"}}}
    artifact.write_json(file, graph)
    run = Artifacts(run.folder, file.parent)
    assert cells(retrieval.retrievers(run)) == [], "one that was not made here is left out"
    folder = run.folder / "models" / "retriever"
    folder.mkdir()
    artifact.write_json(folder / "retrieval.json", {"test": test})
    rows = cells(retrieval.retrievers(run))
    assert [row[1] for row in rows] == [*retrieval.SEARCHES.values()]
    assert rows[2][2] == "0.400 [0.300, 0.500]" and rows[2][-1].endswith("▲") and rows[0][-1] == "–"
