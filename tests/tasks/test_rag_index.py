"""The index as a stage: what it finds, what is embedded again, equal bytes, and what it refuses."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks import rag_index
from tasks.retrieval import encoder as encoders
from tasks.retrieval.index import Index
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError, ConfigError, DataError
from tests.support.indexed import FUSION, make_inputs, note_embedded, people, write

SETTINGS: dict[str, Any] = {
    "seed": 0,
    "threads": 1,
    "dataset": "prompts",
    "embed_titles": False,
    "batch_size": 8,
    "dimensions": None,
    "dense": {"kind": "flat", "shard_rows": 50},
    "fusion": FUSION,
}
IVF = {"kind": "ivf", "codes": "float32", "shard_rows": 50, "train_rows": 500, "iterations": 5, "nlist": 4, "nprobe": 4}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("indexing"), make_artifact)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The chunks that are given to an encoder from here on."""
    return note_embedded(monkeypatch)


def built(make_run: Callable[[str], Any], name: str, inputs: dict[str, Path], **changed: Any) -> Any:
    run = make_run(name)
    rag_index.main(rag_index.Config(**{**SETTINGS, **changed}), run, **inputs)
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_index_stands_alone_and_keeps_the_parts_of_each_leg(
    make_run: Any, inputs: dict[str, Path], tmp_path: Path
) -> None:
    folder = built(make_run, "index", inputs).out
    shutil.move(folder, tmp_path / "elsewhere")
    index = Index.open(tmp_path / "elsewhere")
    assert [chunk.id for chunk in index.chunks] == [chunk.id for chunk in people()]
    text = index.chunks[17].text
    for by in ("lexical", "dense", "fused"):
        hits = index.search([text, "Where?"], 4, by)[0]
        assert hits[0].chunk.text == text
        assert len(hits) <= 4
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    lexical, dense = (index.search([text], 3, by)[0][0] for by in ("lexical", "dense"))
    assert lexical.ranks == {"lexical": 1, "dense": None}
    assert dense.ranks == {"lexical": None, "dense": 1}
    assert dense.score == pytest.approx(1.0, abs=1e-5)
    fused = index.search([text], 3)[0]
    assert all(hit.score == pytest.approx(sum(hit.parts.values())) for hit in fused)
    assert set(index.seconds) == {"embed", "lexical", "dense", "fuse"}
    assert index.seconds["embed"] > 0


def test_hits_do_not_depend_on_the_queries_beside(make_run: Any, inputs: dict[str, Path]) -> None:
    index = Index.open(built(make_run, "index", inputs).out)
    queries = [f"Where does {chunk.text.split()[0]} live?" for chunk in index.chunks[:40:4]]
    together = index.search(queries, 5)
    assert [index.search([query], 5)[0] for query in queries] == together
    assert index.search([], 5) == []


def test_the_fusion_is_the_best_tried_on_the_validation_questions(make_run: Any, inputs: dict[str, Path]) -> None:
    run = built(make_run, "index", inputs)
    described = artifact.read_json(run.out / "index.json")
    best = max(one["ndcg@10"] for one in described["tried"])
    chosen = [one for one in described["tried"] if all(one[key] == value for key, value in described["fusion"].items())]
    assert [one["ndcg@10"] for one in chosen] == [best]
    alone = [one["ndcg@10"] for one in described["tried"] if one["lexical"] in (0.0, 1.0)]
    assert len(alone) == 2
    assert best >= max(alone)
    assert described["questions"]["used"] > 10
    assert described["relevance"]["right"] > 10 and described["relevance"]["auc"] > 0.6


def test_relevance_is_a_hit_s_own(make_run: Any, inputs: dict[str, Path]) -> None:
    """It does not rise when better hits are gone, as a score within a ranking does."""
    index = Index.open(built(make_run, "index", inputs).out)
    query = f"Where does {index.chunks[0].text.split()[0]} live?"
    (hits,) = index.search([query], 3)
    fitted = index.described.relevance
    assert fitted is not None
    depth = index.described.fusion.depth
    lexical = {hit.chunk.id: hit.score for hit in index.search([query], depth, "lexical")[0]}
    dense = {hit.chunk.id: hit.score for hit in index.search([query], depth, "dense")[0]}
    for hit in hits:
        cosine = dense.get(hit.chunk.id, min(dense.values()))
        assert hit.relevance == pytest.approx(fitted.of(cosine, lexical.get(hit.chunk.id, 0.0)))
    assert index.search([query], 3, "dense")[0][0].relevance is None


def test_one_changed_document_embeds_its_own_chunks_alone(
    make_run: Any, inputs: dict[str, Path], make_artifact: Any, asked: list[str], tmp_path: Path
) -> None:
    first = built(make_run, "first", inputs)
    assert sorted(asked) == sorted(chunk.text for chunk in people())
    asked.clear()
    chunks, changed = people(), people()[7].document
    chunks = [replace(chunk, text=f"{chunk.text} Now.") if chunk.document == changed else chunk for chunk in chunks]
    gone = chunks[-1].document
    left = [chunk for chunk in chunks if chunk.document != gone]
    again = inputs | {"chunks": write(left, tmp_path / "chunks", make_artifact)}
    start = time.process_time()
    second = built(make_run, "second", again)
    assert time.process_time() - start < 2
    assert sorted(asked) == sorted(chunk.text for chunk in left if chunk.document == changed)
    assert second.measured["embedded"] == len(asked) < first.measured["embedded"]
    index = Index.open(second.out)
    for by in ("lexical", "dense"):
        hits = index.search([people()[-1].text], len(left), by)[0]
        assert gone not in {hit.chunk.document for hit in hits}
    shutil.rmtree(".polm")
    cold = built(make_run, "cold", again)
    assert cold.measured["embedded"] == len(left)
    assert contents(cold.out) == contents(second.out), "what was embedded before must not show"


def test_a_question_is_embedded_once(make_run: Any, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    embed = encoders.embed

    def noted(model: Any, batch: Sequence[str], size: int, *, queries: bool) -> Any:
        if queries:
            assert size == 1, "as a search does"
            asked.extend(batch)
        return embed(model, batch, size, queries=queries)

    monkeypatch.setattr(encoders, "embed", noted)
    first = built(make_run, "first", inputs)
    assert len(asked) == artifact.read_json(first.out / "index.json")["questions"]["used"]
    asked.clear()
    assert contents(built(make_run, "second", inputs).out) == contents(first.out)
    assert asked == []


def test_three_shards_on_the_disk_find_what_one_piece_finds(make_run: Any, inputs: dict[str, Path]) -> None:
    whole = Index.open(built(make_run, "whole", inputs, dense=IVF | {"shard_rows": 10_000}).out)
    sharded = Index.open(built(make_run, "sharded", inputs, dense=IVF | {"shard_rows": 45}).out)
    assert 2 * 45 < len(whole.chunks) <= 3 * 45
    queries = [chunk.text for chunk in whole.chunks[::9]]
    assert sharded.search(queries, 10, "dense") == whole.search(queries, 10, "dense")


def test_an_index_in_lancedb_finds_what_a_flat_one_finds(make_run: Any, inputs: dict[str, Path]) -> None:
    pytest.importorskip("lancedb", reason="needs the package lancedb: pip install 'polm[lancedb]'")
    flat = Index.open(built(make_run, "flat", inputs).out)
    run = built(make_run, "lance", inputs, dense={"kind": "lancedb", "shard_rows": 45})
    index = Index.open(run.out)
    assert index.described.dense["kind"] == "lancedb" and index.described.fusion == flat.described.fusion
    queries = [chunk.text for chunk in flat.chunks[::9]]
    for by in ("dense", "fused"):
        found, expected = index.search(queries, 5, by), flat.search(queries, 5, by)
        assert [[hit.chunk.id for hit in hits] for hits in found] == [
            [hit.chunk.id for hit in hits] for hits in expected
        ]
    again = built(make_run, "again", inputs, dense={"kind": "lancedb", "shard_rows": 45})
    assert contents(again.out) == contents(run.out)


def test_vectors_may_be_cut(make_run: Any, inputs: dict[str, Path]) -> None:
    index = Index.open(built(make_run, "index", inputs, dimensions=8).out)
    assert index.described.dimensions == 8
    assert index.search([index.chunks[3].text], 1, "dense")[0][0].score == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ConfigError, match="dimensions is 64, and the encoder has 32"):
        built(make_run, "wide", inputs, dimensions=64)


def test_headings_are_embedded_where_the_encoder_was_trained_with_them(
    make_run: Any, inputs: dict[str, Path], make_artifact: Any, asked: list[str], tmp_path: Path
) -> None:
    titled = [replace(chunk, title=("People", "Ada")) for chunk in people()]
    again = inputs | {"chunks": write(titled, tmp_path / "chunks", make_artifact)}
    built(make_run, "index", again, embed_titles=True)
    assert sorted(asked) == sorted(f"People Ada {chunk.text}" for chunk in titled)
    shutil.copytree(inputs["encoder"], tmp_path / "plain")
    artifact.write_json(tmp_path / "plain" / "report.json", {"embed_titles": False})
    with pytest.raises(ConfigError, match=r"embed_titles is True, and .*plain was trained with False"):
        built(make_run, "other", again | {"encoder": tmp_path / "plain"}, embed_titles=True)


def test_no_chunk_is_refused(make_run: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    from tasks.retrieval.chunks import write_chunks

    shutil.copytree(inputs["chunks"], tmp_path / "none")
    write_chunks([], tmp_path / "none")
    with pytest.raises(DataError, match=r"chunks\.parquet: no chunk"):
        built(make_run, "index", inputs | {"chunks": tmp_path / "none"})


def test_parts_of_two_indexes_are_no_index(make_run: Any, inputs: dict[str, Path]) -> None:
    folder = built(make_run, "index", inputs).out
    path = folder / "index.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "chunks": 5}))
    with pytest.raises(ArtifactError, match="not of one index"):
        Index.open(folder)
    path.write_text(json.dumps({**described, "surprise": 1}))
    with pytest.raises(ArtifactError, match="of another version"):
        Index.open(folder)


@pytest.mark.parametrize(("k", "by"), [(0, "fused"), (3, "sparse")])
def test_a_search_without_sense_is_refused(k: int, by: Any, make_run: Any, inputs: dict[str, Path]) -> None:
    index = Index.open(built(make_run, "index", inputs).out)
    with pytest.raises(ValueError, match="expected k of at least 1 and one of lexical, dense, fused"):
        index.search(["Where?"], k, by)
