"""Property: a model that hears is promoted like one that sees, once it has answered about a sound."""

import shutil
from pathlib import Path

import pytest

from flows.registry import policy as policies
from flows.registry import promotion
from flows.registry.evidence import leaked_questions
from flows.registry.version import champion
from flows.tracking import client
from tasks.export.multimodal_session import is_hearing
from tasks.stage import artifact
from tests.support.promotable import Make, add_seeing

REPO = Path(__file__).parents[3]


@pytest.fixture
def project(
    tracking: Path, promotable: Path, hearing_onnx: Path, make_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project with models of words, and some whose export hears."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tracking / ".polm/dvc"))
    shutil.copytree(promotable, tracking, dirs_exist_ok=True, symlinks=True)
    add_seeing(Path(), make_artifact, hearing_onnx)
    return tracking


@pytest.mark.slow
def test_it_is_registered_with_its_ears(project: Path, recwarn: pytest.WarningsRecorder) -> None:
    promotion.promote("vlm")
    said = [str(warning.message) for warning in recwarn]
    assert not [text for text in said if "type hint" in text.lower()], "nobody who promotes can mend MLflow's types"
    version = client.client().get_model_version_by_alias(client.experiment("tiny"), "champion")
    assert version.tags["media"] == "pictures"
    with champion() as (folder, _):
        assert is_hearing(folder)


def test_a_sound_that_trains_is_found_whatever_is_asked_about_it(tmp_path: Path) -> None:
    asked = [{"id": i, "question": "Answer the question.", "answer": "5", "audio": [f"{i}.flac"]} for i in "ab"]
    artifact.write_jsonl(tmp_path / "eval/sums.jsonl", asked)
    said = [{"role": "user", "content": "Answer the question."}]
    for name, leaked in (("c.flac", []), ("b.flac", ["b.flac"])):
        artifact.write_jsonl(tmp_path / "sft/train.jsonl", [{"id": "t", "messages": said, "audio": [name]}])
        assert leaked_questions(tmp_path) == (leaked, 2, 1)


def test_the_recipes_policy_names_every_metric_of_its_sounds() -> None:
    policy = policies.load_policy("tiny", REPO / "mlflow/gates.yaml", data="spoken")
    assert policy.sight is not None and policy.sight.control == "other"
    for metric in ("transcripts.wer", "transcripts.exact_match", "spoken_sums.adds_up"):
        policies.bound(metric, policy)
