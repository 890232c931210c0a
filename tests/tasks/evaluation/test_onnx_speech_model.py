"""An export that hears, asked through the harness: PyTorch's answers, controls and likelihoods."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.stage import artifact
from tests.support.hearing import build_questions
from tests.support.sight import SCORED, evaluate, rows_of, samples

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def asked(
    lively_ears: Path,
    spoken_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_artifact: Callable[..., artifact.Manifest],
) -> Path:
    return build_questions(lively_ears, spoken_data, tmp_path_factory.mktemp("asked") / "data", make_artifact)


def test_answers_and_controls_are_those_of_pytorch(
    workspace: Path, lively_ears: Path, hearing_onnx: Path, asked: Path
) -> None:
    """With a sound and without; under each control the same noise and the same other row."""
    controls = ["noise", "silence", "other"]
    ours = evaluate(hearing_onnx / "fp32", asked, controls=controls, group_by=["kind"])
    theirs = evaluate(lively_ears, asked, controls=controls, group_by=["kind"])
    assert samples(ours) == samples(theirs)
    assert [row["response"] for row in samples(ours)] == [row["answer"] for row in rows_of(asked)]
    for control in controls:
        assert samples(ours, f"shown@{control}") == samples(theirs, f"shown@{control}")
        assert samples(ours, f"shown@{control}") != samples(ours)
    found, expected = (artifact.read_json(out / "results.json") for out in (ours, theirs))
    assert found["form"] == "fp32"
    assert found["tasks"] == expected["tasks"]


def test_a_likelihood_is_pytorchs(workspace: Path, lively_ears: Path, hearing_onnx: Path, asked: Path) -> None:
    ours, theirs = (samples(evaluate(folder, asked, SCORED)) for folder in (hearing_onnx / "fp32", lively_ears))
    for found, expected in zip(ours, theirs, strict=True):
        assert found["scores"]["nats_per_byte"] == pytest.approx(expected["scores"]["nats_per_byte"], rel=1e-3)
