"""Property: a model that sees is promoted behind gates of its own, beside models of words; its lineage has pictures."""

import json
import shutil
from pathlib import Path

import pytest

from flows.registry import lineage, lineage_tree, promotion
from flows.registry.aliases import Aliases
from flows.registry.version import champion
from flows.tracking import client
from tasks.export.multimodal_session import is_seeing
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, GateError
from tests.support.promotable import PICTURES, Make, add_seeing
from tests.support.traces import ANSWER, NAME, trace


@pytest.fixture
def project(
    tracking: Path, promotable: Path, seeing_onnx: Path, make_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project with models of words and models that see."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tracking / ".polm/dvc"))
    shutil.copytree(promotable, tracking, dirs_exist_ok=True, symlinks=True)
    add_seeing(Path(), make_artifact, seeing_onnx)
    return tracking


def test_it_follows_a_champion_of_words_and_is_followed_by_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is held against its own parent: the champion before it was asked other things."""
    promotion.promote("dpo")
    promotion.promote("vlm")
    api = client.client()
    version = api.get_model_version_by_alias(NAME, "champion")
    assert (version.version, version.tags["model"], version.tags["media"]) in (
        ("2", "vlm", "pictures"),
        (2, "vlm", "pictures"),
    )
    found = json.loads(version.tags["gates"])
    assert "+0.8000" in found["quality: digits.exact_match − parent sight > +0"]
    assert found["sight: digits.exact_match of int8 − with 'other' ≥ +0.3"].startswith("+0.8000 [+0.7600, +0.8400]")
    assert found["contamination: no evaluation question among the training rows"].startswith("0 of 200 in 2 rows")
    with champion() as (folder, label):
        assert is_seeing(folder) and label == f"{NAME} v2 (vlm, int8)"
    _lineage_shows_pictures(capsys)
    promotion.promote("dpo")
    assert Aliases(api, NAME).read() == {"candidate": "3", "champion": "3", "previous": "2"}
    promotion.rollback()
    with champion() as (folder, _):
        assert is_seeing(folder)


def _lineage_shows_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    """The chain of an answer with a picture: down to the data set of pictures and to the rows of words before it."""
    picture = {"type": "image", "sha256": "ab" * 32, "bytes": 71, "media_type": "image/png"}
    trace(ANSWER, "2", [{"role": "user", "content": [picture, {"type": "text", "text": "Which digit?"}]}])
    found = lineage.find(ANSWER)
    assert [step.manifest.stage for step in found.steps] == ["export_onnx", "vlm", "vlm", "sft", "base", "data", "data"]
    capsys.readouterr()
    lineage_tree.show(ANSWER)
    said = capsys.readouterr().out
    archive = artifact.sha256(Path("artifacts/media/pictures/media.zip"))
    for part in (
        'asked    "Which digit?"',
        "shown    image/png, 71 bytes  sha256 abababababab",
        "training rows of artifacts-media-pictures",
        f"media.zip  sha256 {archive[:12]}  201 pictures",
        "1 rows, CC-BY-4.0, from drawn",
        "drawn  generator digits.questions, CC-BY-4.0",
        "training rows of artifacts-data",
        "greetings  file hi.jsonl, CC0-1.0",
    ):
        assert part in said, said


def test_a_model_that_answers_without_looking_is_refused(project: Path) -> None:
    with pytest.raises(
        GateError, match=r"blind is not promoted: 1 of \d+ gates failed\n  sight: .*\+0\.0000 \[-0\.0400"
    ):
        promotion.promote("blind")
    assert not client.client().search_registered_models()


def test_a_picture_that_trains_is_found_whatever_is_asked_about_it(project: Path, make_artifact: Make) -> None:
    from flows.registry.evidence import leaked_questions

    data = Path("artifacts/media/pictures")
    assert leaked_questions(data, [Path("artifacts/data")]) == ([], 200, 2)
    row = {"id": "t", "messages": [{"role": "user", "content": "Odd or even?"}], "images": ["row7.png"]}
    artifact.write_jsonl(data / "sft/train.jsonl", [row])
    assert leaked_questions(data) == (["row7.png"], 200, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tiny/pictures:", "tiny/photos:", "no section 'tiny/pictures'; did you mean 'tiny/photos'"),
        ("  sight: {control: other, gain: 0.3}\n", "", "tiny/pictures: missing key 'sight'"),
        ("control: other", "control: noise", None),
        ("control: other", "control: nothing", "control"),
    ],
)
def test_a_policy_that_asks_for_no_control_is_refused(project: Path, old: str, new: str, message: str | None) -> None:
    path = Path("mlflow/gates.yaml")
    assert old in PICTURES
    path.write_text(path.read_text().replace(old, new))
    if message is None:
        with pytest.raises(GateError, match="digits was not asked under 'noise'; add it to the task's `controls`"):
            promotion.promote("vlm")
        return
    with pytest.raises(ConfigError, match=message):
        promotion.promote("vlm")


def test_an_export_that_cannot_answer_is_not_registered(project: Path, make_artifact: Make) -> None:
    """The graph in the folder is another one than parity was measured on."""
    from dvc.repo import Repo

    from tasks.stage.errors import ModelError

    export = Path("artifacts/onnx/vlm")
    inputs = artifact.read_manifest(export).inputs
    (export / artifact.MANIFEST).unlink()
    (export / "int8/vision.onnx").write_bytes(b"no graph")
    exported = make_artifact(export, stage="export_onnx", **inputs)
    asked = Path("artifacts/metrics/vlm_int8")
    (asked / artifact.MANIFEST).unlink()
    make_artifact(asked, stage="evaluate", model=exported.digest, data=inputs["data"])
    Repo().commit(force=True)
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it"):
        promotion.promote("vlm")
    assert not client.client().search_registered_models()
