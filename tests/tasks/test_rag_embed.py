"""A shard as a stage: which chunks it embeds, what it resumes, and that an index is the same with shards and none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import rag_embed, rag_index
from tasks.retrieval import embeddings, shards
from tasks.retrieval import encoder as encoders
from tasks.retrieval.chunks import Chunk
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError, ConfigError
from tests.support.indexed import FUSION, make_inputs, note_embedded, people, save_encoder, write

OWN: dict[str, Any] = {"seed": 0, "threads": 1, "embed_titles": False, "batch_size": 8}
"""What decides vectors."""
INDEX: dict[str, Any] = OWN | {
    "dataset": "prompts",
    "dimensions": None,
    "dense": {"kind": "flat", "shard_rows": 50},
    "fusion": FUSION,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("embedding"), make_artifact)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The chunks that are given to an encoder from here on."""
    return note_embedded(monkeypatch)


def shard(make_run: Callable[[str], Any], name: str, inputs: dict[str, Path], **changed: Any) -> Any:
    """Make the shard of this name, in a folder of its own."""
    run = make_run(name)
    rag_embed.main(rag_embed.Config(**OWN | changed), run, chunks=inputs["chunks"], encoder=inputs["encoder"])
    place = run.out.parent / f"made{len([*run.out.parent.glob('made*')])}"
    place.mkdir()
    run.out = Path(shutil.move(run.out, place / name))
    return run


def sharded(make_run: Callable[[str], Any], folder: Path, inputs: dict[str, Path], count: int) -> Path:
    """Make every shard of an index, each as on a machine of its own, which knows no vector."""
    for number in range(1, count + 1):
        name = f"index-{number}of{count}"
        shutil.copytree(shard(make_run, name, inputs).out, folder / name)
        shutil.rmtree(".polm")
    return folder


def built(make_run: Callable[[str], Any], name: str, inputs: dict[str, Path], vectors: Path | None) -> Any:
    run = make_run(name)
    rag_index.main(rag_index.Config(**INDEX), run, **inputs, vectors=vectors)
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def keys(folder: Path) -> list[bytes]:
    return [row.tobytes() for row in np.load(folder / shards.KEYS)]


def test_the_index_is_the_same_of_one_two_and_three_shards_and_of_none(
    make_run: Any, inputs: dict[str, Path], asked: list[str], tmp_path: Path
) -> None:
    whole = built(make_run, "whole", inputs, None).out
    shutil.rmtree(".polm")
    for count in (1, 2, 3):
        asked.clear()
        folder = sharded(make_run, tmp_path / f"in{count}", inputs, count)
        assert sorted(asked) == sorted({chunk.text for chunk in people()}), "each text is embedded once"
        asked.clear()
        run = built(make_run, f"of{count}", inputs, folder)
        assert (asked, run.measured["embedded"], run.measured["missing"]) == ([], 0, 0)
        assert contents(run.out) == contents(whole), count


def test_a_shard_has_the_vectors_of_its_documents_by_ascending_hash(make_run: Any, inputs: dict[str, Path]) -> None:
    folder = shard(make_run, "index-2of3", inputs).out
    own = [chunk for chunk in people() if shards.holds(2, 3, chunk.document)]
    assert 0 < len({chunk.document for chunk in own}) < len({chunk.document for chunk in people()})
    texts = {embeddings.key(chunk.text): chunk.text for chunk in own}
    assert keys(folder) == sorted(texts)
    vectors = encoders.embed(encoders.load(inputs["encoder"]), [texts[key] for key in sorted(texts)], 8, queries=False)
    assert np.load(folder / shards.VECTORS).tobytes() == vectors.tobytes()
    described = artifact.read_json(folder / shards.FILE)
    assert described == {
        "shard": 2, "shards": 3, "encoder": encoders.digest(inputs["encoder"]), "embed_titles": False,
        "batch_size": 8, "threads": 1, "dimensions": 32, "chunks": len(own), "texts": len(texts),
    }  # fmt: skip


def test_a_document_stays_in_its_shard_and_the_shards_are_of_like_size() -> None:
    documents = [f"people/{number:04}.txt" for number in range(4_000)]
    of = {name: [k for k in (1, 2, 3, 4) if shards.holds(k, 4, name)] for name in documents}
    assert all(len(found) == 1 for found in of.values())
    counts = [sum(found == [k] for found in of.values()) for k in (1, 2, 3, 4)]
    assert all(900 < count < 1_100 for count in counts), counts
    assert [of[f"people/{number:04}.txt"][0] for number in range(6)] == [4, 1, 3, 3, 4, 2], "it may never change"


def test_what_no_shard_has_is_embedded_and_counted(
    make_run: Any, inputs: dict[str, Path], asked: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = sharded(make_run, tmp_path / "vectors", inputs, 3)
    shutil.rmtree(folder / "index-2of3")
    lacking = [chunk for chunk in people() if shards.holds(2, 3, chunk.document)]
    asked.clear()
    with caplog.at_level("INFO", "polm"):
        run = built(make_run, "some", inputs, folder)
    there = {chunk.text for chunk in people() if chunk not in lacking}
    assert sorted(asked) == sorted({chunk.text for chunk in lacking} - there)
    assert run.measured["missing"] == run.measured["embedded"] == len(asked) > 0
    assert (
        f"2 shards: they have the vectors of {len(people()) - len(asked)} chunks, and lack {len(asked)}" in caplog.text
    )
    shutil.rmtree(".polm")
    assert contents(run.out) == contents(built(make_run, "none", inputs, None).out)


def test_vectors_that_this_machine_knows_are_not_embedded_again(
    make_run: Any, inputs: dict[str, Path], asked: list[str]
) -> None:
    cold = shard(make_run, "index-1of2", inputs)
    assert cold.measured["embedded"] == len(asked) > 0
    asked.clear()
    warm = shard(make_run, "index-1of2", inputs)
    assert (warm.measured["embedded"], asked) == (0, [])
    assert contents(warm.out) == contents(cold.out)


def test_a_shard_that_was_ended_goes_on_where_it_was(
    make_run: Any, inputs: dict[str, Path], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "BATCH", 16)
    noted = encoders.embed

    def ending(*given: Any, **more: Any) -> Any:
        if len(asked) >= 32:
            raise KeyboardInterrupt
        return noted(*given, **more)

    monkeypatch.setattr(encoders, "embed", ending)
    with pytest.raises(KeyboardInterrupt):
        shard(make_run, "index-1of1", inputs)
    assert len(asked) == 32
    shutil.rmtree("index-1of1")
    monkeypatch.setattr(encoders, "embed", noted)
    after = shard(make_run, "index-1of1", inputs)
    assert after.measured["embedded"] == len({chunk.text for chunk in people()}) - 32
    assert sorted(asked) == sorted({chunk.text for chunk in people()}), "nothing is embedded twice"
    shutil.rmtree(".polm")
    assert contents(after.out) == contents(shard(make_run, "index-1of1", inputs).out)


def test_a_shard_without_documents_is_empty_and_said(
    make_run: Any, inputs: dict[str, Path], make_artifact: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = [chunk for chunk in people() if chunk.document == people()[0].document]
    other = next(k for k in (1, 2) if not shards.holds(k, 2, one[0].document))
    few = inputs | {"chunks": write(one, tmp_path / "chunks", make_artifact)}
    folder = shard(make_run, f"index-{other}of2", few).out
    assert np.load(folder / shards.VECTORS).shape == (0, 32)
    assert keys(folder) == []
    assert "belongs to this shard; fewer shards would do" in caplog.text
    shutil.copytree(folder, tmp_path / "vectors" / folder.name)
    run = built(make_run, "index", inputs, tmp_path / "vectors")
    assert run.measured["missing"] == len(people())


@pytest.mark.parametrize(
    ("key", "other", "own"),
    [
        ("shards", "index-2of3", {}),
        ("batch_size", "index-2of2", {"batch_size": 4}),
        ("threads", "index-2of2", {"threads": 2}),
    ],
)
def test_shards_that_are_of_no_one_index_are_refused(
    key: str, other: str, own: dict[str, Any], make_run: Any, inputs: dict[str, Path], tmp_path: Path
) -> None:
    for name, changed in (("index-1of2", {}), (other, own)):
        shutil.copytree(shard(make_run, name, inputs, **changed).out, tmp_path / "vectors" / name)
    with pytest.raises(
        ConfigError, match=rf"index-1of2 and .*{other}: {key} is \w+ and \w+, so they are no parts of one"
    ):
        built(make_run, "index", inputs, tmp_path / "vectors")


def test_shards_of_another_encoder_are_refused(
    make_run: Any, inputs: dict[str, Path], make_artifact: Any, tmp_path: Path
) -> None:
    second = inputs | {"encoder": save_encoder(tmp_path / "second", make_artifact, seed=1)}
    for name, given in (("index-1of2", inputs), ("index-2of2", second)):
        shutil.copytree(shard(make_run, name, given).out, tmp_path / "vectors" / name)
    with pytest.raises(ConfigError, match=r"index-1of2 and .*index-2of2: encoder is"):
        built(make_run, "index", inputs, tmp_path / "vectors")
    shutil.rmtree(tmp_path / "vectors" / "index-2of2")
    with pytest.raises(
        ConfigError, match=r"index-1of2: encoder is .* with its encoder asks for .*make the shards anew"
    ):
        built(make_run, "again", second, tmp_path / "vectors")


def test_a_folder_without_shards_is_refused(make_run: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no vectors\.json in it or in a folder of it"):
        built(make_run, "index", inputs, tmp_path)


@pytest.mark.parametrize(
    "name", ["index", "index-0of2", "index-3of2", "index-1of0", "index-oneof2", "index-01of2", "1of2"]
)
def test_a_name_that_is_no_shard_is_refused(name: str, make_run: Any, inputs: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=f"--out ends in '{name}', which names no shard"):
        shard(make_run, name, inputs)


def test_it_reads_the_keys_of_the_index_that_decide_vectors(tmp_path: Path) -> None:
    path = tmp_path / "index.yaml"
    artifact.write_json(path, INDEX)
    assert rag_embed.settings(path) == rag_embed.Config(**OWN)
    artifact.write_json(path, INDEX | {"batch_size": 0})
    with pytest.raises(ConfigError, match=r"index\.yaml: 'batch_size' is 0"):
        rag_embed.settings(path)
    artifact.write_json(path, {key: value for key, value in INDEX.items() if key != "embed_titles"})
    with pytest.raises(ConfigError, match=r"index\.yaml: .*embed_titles"):
        rag_embed.settings(path)


def test_headings_are_as_the_encoder_was_trained(make_run: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(inputs["encoder"], tmp_path / "plain")
    artifact.write_json(tmp_path / "plain" / "report.json", {"embed_titles": False})
    with pytest.raises(ConfigError, match=r"embed_titles is True, and .*plain was trained with False"):
        shard(make_run, "index-1of2", inputs | {"encoder": tmp_path / "plain"}, embed_titles=True)


def test_a_text_of_two_shards_is_found_in_either(
    make_run: Any, inputs: dict[str, Path], make_artifact: Any, tmp_path: Path
) -> None:
    first, second = (next(d for d in map(str, range(99)) if shards.holds(k, 2, f"people/{d}.txt")) for k in (1, 2))
    twice = [Chunk(f"f{d:>15}", f"people/{d}.txt", "people", (), 0, 4, "Same") for d in sorted((first, second))]
    both = inputs | {"chunks": write([*people(), *twice], tmp_path / "chunks", make_artifact)}
    folder = sharded(make_run, tmp_path / "vectors", both, 2)
    same = embeddings.key("Same")
    assert same in keys(folder / "index-1of2") and same in keys(folder / "index-2of2")
    assert contents(built(make_run, "of2", both, folder).out) == contents(built(make_run, "none", both, None).out)
