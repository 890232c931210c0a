"""Shards in a graph: their names, and what is told of a graph whose shards make no index."""

from pathlib import Path
from typing import Any

import pytest

from tasks.stage import dag, drawing, needs, recipe, shards
from tests.support.graphs import BLOCKS, graph

PART = {"index": "index", "chunks": "passages", "encoder": "encoder"}
WHOLE = {"chunks": "passages", "encoder": "encoder", "data": "facts"}
SHARDED: dict[str, Any] = {
    "media": {"facts": {}},
    "rag_chunks": {"passages": {}, "others": {}},
    "retriever": {"encoder": {"chunks": "passages", "data": "facts"}, "second": {"chunks": "others", "data": "facts"}},
    "rag_embed": {"index-1of2": PART, "index-2of2": PART},
    "rag_index_sharded": {"index": WHOLE},
    "raft": {"grounded": {"index": "index", "data": "facts"}},
    "evaluate_rag": {"reading": {"model": "sft", "index": "index", "data": "grounded"}},
}


def test_a_sharded_index_is_an_index_and_its_shards_read_its_file(tmp_path: Path) -> None:
    read = graph(tmp_path, SHARDED)
    assert dag.problems(read, BLOCKS) == []
    files = dag.files(read, BLOCKS)
    assert files["index.yaml"] == "rag_index"
    assert not [name for name in files if name.startswith("index-")]
    assert (read.kinds["index"], read.kinds["index-2of2"]) == ("indexes", "vectors/index")


def test_the_drawing_leads_from_the_shards_to_the_index(tmp_path: Path) -> None:
    drawn = drawing.mermaid(graph(tmp_path, SHARDED)).splitlines()
    assert "  index-1of2 -. vectors .-> index" in drawn
    assert "  passages -. chunks .-> index-1of2" in drawn
    assert not [line for line in drawn if line.startswith("  index -") and "index-" in line.partition(">")[2]]


def test_shards_of_an_index_that_is_left_out_are_left_out(tmp_path: Path) -> None:
    read = graph(tmp_path, SHARDED | {"media": {"facts": {"needs": "no_such_module"}}})
    assert {Path("vectors/index/index-1of2"), Path("vectors/index/index-2of2")} <= needs.folders(read)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("index-1of4", shards.Shard("index", 1, 4)),
        ("my-index-12of12", shards.Shard("my-index", 12, 12)),
        ("index-0of4", None),
        ("index-5of4", None),
        ("index-1of0", None),
        ("index-01of4", None),
        ("index-oneof4", None),
        ("index-1of4 ", None),
        ("-1of4", None),
        ("index", None),
    ],
)
def test_a_name_says_which_part_of_how_many(name: str, found: shards.Shard | None) -> None:
    assert shards.parse(name) == found
    assert found is None or str(found) == name


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "rag_index_sharded.index: no shard under 'rag_embed'; add index-1of2 and index-2of2, or use 'rag_index'"),
        ({"index-1of2": PART}, "rag_index_sharded.index: no shard index-2of2 under 'rag_embed'; add index-2of2 like"),
        (
            {"index-1of2": PART, "index-2of2": PART, "index-3of3": PART},
            "rag_embed.index-1of2 and rag_embed.index-3of3 divide 'index' by 2 and by 3; take one of both numbers",
        ),
        ({"index-0of2": PART}, "rag_embed.index-0of2: a shard is called by its index and number, from index-1of2 to"),
        ({"index-twoof2": PART}, "rag_embed.index-twoof2: a shard is called by its index and number"),
        ({"other-1of1": PART}, "rag_embed.other-1of1: a shard is called by its index and number"),
        ({"index-1of1": PART | {"index": "indx"}}, "rag_embed.index-1of1.index is 'indx'; did you mean 'index'?"),
        ({"index-1of1": PART | {"index": "passages"}}, "index is 'passages'; there are: index; these stand under"),
        (
            {"index-1of1": PART | {"encoder": "second"}},
            "rag_embed.index-1of1.encoder is 'second', and rag_index_sharded.index.encoder is 'encoder'; name the same",
        ),
        ({"index-1of1": PART | {"chunks": "others"}}, "rag_embed.index-1of1.chunks is 'others', and rag_index_sharded"),
        ({"index-1of1": PART | {"chunks": "pasages"}}, "rag_embed.index-1of1.chunks is 'pasages'; did you mean"),
        ({"index-1of1": {"chunks": "passages", "encoder": "encoder"}}, "rag_embed.index-1of1: missing key 'index'"),
        ({"index-1of1": PART | {"shards": "1"}}, "rag_embed.index-1of1: unknown key 'shards'"),
    ],
)
def test_shards_that_make_no_index_are_told(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    problems = dag.problems(graph(tmp_path, SHARDED | {"rag_embed": parts}), BLOCKS)
    assert any(message in problem for problem in problems), problems
    assert all(problem.startswith(f"{tmp_path / 'mine' / recipe.FILE}: ") for problem in problems)
