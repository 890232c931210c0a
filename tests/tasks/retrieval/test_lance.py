"""LanceDB for the dense part: the same hits as exact search, a table made from the artifact, and what it refuses."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.retrieval import dense, lance
from tasks.retrieval.dense import Dense
from tasks.retrieval.dense_settings import Flat, LanceDb
from tasks.stage.errors import ArtifactError
from tests.conftest import REPO

COUNT, WIDTH = 900, 32
SETTINGS = LanceDb(kind="lancedb", shard_rows=350)
installed = pytest.mark.usefixtures("lancedb")


@pytest.fixture
def lancedb(workspace: Path) -> None:
    pytest.importorskip("lancedb", reason="needs the package lancedb: pip install 'polm[lancedb]'")


@pytest.fixture(scope="module")
def vectors() -> Any:
    """Vectors in clusters, as those of texts are."""
    rng = np.random.default_rng(0)
    made = rng.normal(size=(30, WIDTH))[rng.integers(0, 30, COUNT)] + 0.4 * rng.normal(size=(COUNT, WIDTH))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def built(vectors: Any, folder: Path, settings: Any = SETTINGS) -> Path:
    folder.mkdir()
    dense.build(lambda start, end: vectors[start:end], len(vectors), WIDTH, settings, folder, seed=5)
    return folder


@installed
def test_it_finds_what_flat_search_finds(vectors: Any, tmp_path: Path) -> None:
    table = Dense.open(built(vectors, tmp_path / "lance"))
    flat = Dense.open(built(vectors, tmp_path / "flat", Flat(kind="flat", shard_rows=350)))
    assert (table.size, table.dimensions) == (COUNT, WIDTH)
    scores, rows = table.search(vectors[:100], 10)
    expected = flat.search(vectors[:100], 10)
    assert (rows == expected[1]).all()
    assert np.abs(scores - expected[0]).max() <= 2e-6
    alone = table.search(vectors[7:8], 10)
    assert (alone[0][0] == scores[7]).all() and (alone[1][0] == rows[7]).all()


@installed
def test_of_copies_the_lowest_rows_are_found_however_many_there_are(vectors: Any, tmp_path: Path) -> None:
    copies = np.concatenate([vectors[5:300], np.repeat(vectors[:1], 600, axis=0)])
    table = Dense.open(built(copies, tmp_path / "index"))
    assert table.search(vectors[:1], 3)[1].tolist() == [[295, 296, 297]]
    scores, rows = Dense.open(built(copies[-2:], tmp_path / "few")).search(vectors[:1], 4)
    assert rows.tolist() == [[0, 1, -1, -1]] and scores[0].tolist() == [1.0, 1.0, 0.0, 0.0]


@installed
def test_the_artifact_has_equal_bytes_and_the_table_is_made_again_from_it(vectors: Any, tmp_path: Path) -> None:
    one, other = built(vectors, tmp_path / "one"), built(vectors, tmp_path / "other")
    assert sorted(path.name for path in one.iterdir()) == [lance.DESCRIBED, lance.VECTORS]
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in (lance.DESCRIBED, lance.VECTORS))
    before = Dense.open(one).search(vectors[:20], 5)
    tables = [path.name for path in lance.ROOT.iterdir() if path.is_dir()]
    Dense.open(other)
    assert [path.name for path in lance.ROOT.iterdir() if path.is_dir()] == tables, "equal vectors share a table"
    shutil.rmtree(lance.ROOT)
    shutil.move(one, tmp_path / "elsewhere")
    after = Dense.open(tmp_path / "elsewhere").search(vectors[:20], 5)
    assert (before[0] == after[0]).all() and (before[1] == after[1]).all()


@installed
def test_a_table_that_was_killed_half_way_is_made_again(vectors: Any, tmp_path: Path) -> None:
    folder = built(vectors, tmp_path / "index")
    Dense.open(folder)
    (place,) = (path for path in lance.ROOT.iterdir() if path.is_dir())
    left = place.rename(place.with_name(f"{place.name}.tmp"))
    shutil.rmtree(left / "vectors.lance" / "_versions")
    assert Dense.open(folder).size == COUNT
    assert not left.exists()


@installed
def test_other_vectors_or_a_broken_table_are_named(vectors: Any, tmp_path: Path) -> None:
    folder = built(vectors, tmp_path / "index")
    Dense.open(folder)
    (place,) = (path for path in lance.ROOT.iterdir() if path.is_dir())
    shutil.rmtree(place / "vectors.lance")
    with pytest.raises(ArtifactError, match="no table of LanceDB"):
        Dense.open(folder)
    shutil.rmtree(place)
    data = bytearray((folder / lance.VECTORS).read_bytes())
    data[-1] ^= 1
    (folder / lance.VECTORS).write_bytes(data)
    with pytest.raises(ArtifactError, match=r"dense\.npy: not the vectors"):
        Dense.open(folder)


def test_without_the_package_the_error_says_how_to_install_it() -> None:
    """In a Python that finds no `lancedb`, whether it is installed here or not."""
    code = (
        "import sys; sys.modules['lancedb'] = None\n"
        "from tasks.retrieval import lance\n"
        "from tasks.stage.errors import ConfigError\n"
        "try: lance.require()\n"
        "except ConfigError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert "pip install 'polm[lancedb]'" in done.stdout and "kind: flat" in done.stdout
