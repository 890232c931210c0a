"""Property: a graph has readers, with base models of their own and exported forms that are asked with an index."""

from pathlib import Path
from typing import Any

import pytest

from tasks.stage import dag, recipe
from tasks.stage.errors import ConfigError
from tests.support.graphs import BLOCKS, graph

READING: dict[str, Any] = {
    "media": {"facts": {}},
    "rag_chunks": {"passages": {}},
    "retriever": {"encoder": {"chunks": "passages", "data": "facts"}},
    "rag_index": {"index": {"chunks": "passages", "encoder": "encoder", "data": "facts"}},
    "raft": {"grounded": {"index": "index", "data": "facts"}},
    "pretrain": {"own": {"data": "grounded"}},
    "reader": {"reader": {"from": "own", "data": "grounded", "claim": "facts.exact_match"}},
    "evaluate_rag": {
        "own": {"model": "own", "index": "index", "data": "grounded"},
        "reader": {"model": "reader", "index": "index", "data": "grounded"},
    },
    "export_media": {"reader": "grounded"},
    "evaluate_onnx_rag": {
        "reader_int8": {"model": "reader", "form": "int8", "index": "index", "data": "grounded"},
    },
}
FORM = READING["evaluate_onnx_rag"]["reader_int8"]


def test_a_reader_has_a_base_model_of_its_own_and_its_export_is_asked_with_the_index(tmp_path: Path) -> None:
    read = graph(tmp_path, READING)
    assert dag.problems(read, BLOCKS) == []
    assert read.scored[-1] == "reader_int8"
    assert set(read.forms_asked) == {"reader_int8"}
    files = dag.files(read, BLOCKS)
    assert {files[f"{name}.yaml"] for name in ("own", "reader", "grounded")} == {"base", "sft", "raft"}
    assert (files["export_grounded.yaml"], files["evaluate_grounded.yaml"]) == ("export_onnx", "evaluate_rag")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain": {"own": {}}}, "pretrain.own: missing key 'data'"),
        ({"pretrain": {"own": {"data": "ground"}}}, "pretrain.own.data is 'ground'; did you mean 'grounded'?"),
        ({"export_media": {"reader": "ground"}}, "export_media.reader is 'ground'; did you mean 'grounded'?"),
        ({"export_media": {}}, "evaluate_onnx_rag.reader_int8.model is 'reader'; there are: none; name it under"),
        (
            {"evaluate_onnx_rag": {"reader_int8": FORM | {"index": "indexes"}}},
            "evaluate_onnx_rag.reader_int8.index is 'indexes'; did you mean 'index'?",
        ),
        (
            {"evaluate_onnx_rag": {"reader_int8": FORM | {"data": "facts"}}},
            "evaluate_onnx_rag.reader_int8.data is 'facts'; there are: grounded",
        ),
    ],
)
def test_a_graph_of_readers_that_does_not_fit_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    problems = dag.problems(graph(tmp_path, READING | changes), BLOCKS)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        (["reader"], "'evaluate_onnx_rag' is ['reader']; expected forms, e.g. {vlm_int8: {model: vlm, form: int8, "),
        ({"reader_int8": {"model": "reader"}}, "write it like this: vlm_int8: {model: vlm, form: int8, index: index,"),
        ({"reader": FORM}, "evaluate_onnx_rag.reader: call it reader_int8, after its form"),
    ],
)
def test_forms_that_are_written_otherwise_are_told(tmp_path: Path, forms: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        graph(tmp_path, READING | {"evaluate_onnx_rag": forms})
    assert message in str(caught.value)
    assert str(tmp_path / "mine" / recipe.FILE) in str(caught.value)
