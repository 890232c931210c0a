"""What is found of the room of a store: a file is really written. The services' tests ask the real ones."""

from pathlib import Path

import pytest

from flows.doctor import space


def test_mlflow_stores_reads_and_deletes_a_file(tmp_path: Path) -> None:
    place = tmp_path / "artifacts"
    place.mkdir()
    (finding,) = space.mlflow_files(place.as_uri(), "")
    assert (finding.level, finding.check) == ("ok", "MLflow artifacts")
    assert [path for path in place.rglob("*") if path.is_file()] == [], "nothing of it is left"


def test_a_store_that_takes_no_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = space.mlflow_files((tmp_path / "file").as_uri(), "")
    assert (finding.level, finding.remedy) == ("fail", "ask its owner")
    assert finding.found.startswith("a file cannot be stored: ")


@pytest.mark.parametrize(
    "said",
    ["No space left on device", "An error occurred (QuotaExceeded)", "XMinioStorageFull", "507 Server Error: full"],
)
def test_a_full_store_is_told_from_one_that_may_not_be_written(said: str) -> None:
    assert "no room left" in space._remedy(said)
    assert space._remedy("Permission denied") == "ask its owner"


def test_little_room_is_a_warning_and_what_is_not_told_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "LITTLE", 0.0)
    assert space.folder("DVC cache", tmp_path).level == "ok"
    monkeypatch.setattr(space, "LITTLE", float("inf"))
    assert space.folder("DVC cache", tmp_path).level == "warn"
    assert space.untold("MLflow", "its database is behind the server").level == "note"
