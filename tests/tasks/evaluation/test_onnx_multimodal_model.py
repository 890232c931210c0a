"""An export that sees, asked through the harness: PyTorch's answers, controls and likelihoods."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tests.support.sight import SCORED, build_questions, evaluate, rows_of, samples

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shown(
    lively_model: Path,
    pictures_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_artifact: Callable[..., artifact.Manifest],
) -> Path:
    return build_questions(lively_model, pictures_data, tmp_path_factory.mktemp("shown") / "data", make_artifact)


def test_answers_and_controls_are_those_of_pytorch(
    workspace: Path, lively_model: Path, seeing_onnx: Path, shown: Path
) -> None:
    """With a picture, with two and without any; under each control the same noise and the same other row."""
    controls = ["noise", "black", "other"]
    ours = evaluate(seeing_onnx / "fp32", shown, controls=controls, group_by=["kind"])
    theirs = evaluate(lively_model, shown, controls=controls, group_by=["kind"])
    assert samples(ours) == samples(theirs)
    assert [row["response"] for row in samples(ours)] == [row["answer"] for row in rows_of(shown)]
    for control in controls:
        assert samples(ours, f"shown@{control}") == samples(theirs, f"shown@{control}")
        assert samples(ours, f"shown@{control}") != samples(ours)
    found, expected = (artifact.read_json(out / "results.json") for out in (ours, theirs))
    assert found["form"] == "fp32"
    assert found["tasks"] == expected["tasks"]


def test_a_rounded_form_is_asked_itself(workspace: Path, seeing_onnx: Path, shown: Path) -> None:
    results = artifact.read_json(evaluate(seeing_onnx / "int8", shown) / "results.json")
    assert results["form"] == "int8"
    assert results["tasks"]["shown"]["metrics"]["same"]["value"] < 1.0, "its answers are not those of float32"


def test_a_likelihood_is_pytorchs(workspace: Path, lively_model: Path, seeing_onnx: Path, shown: Path) -> None:
    ours, theirs = (samples(evaluate(folder, shown, SCORED)) for folder in (seeing_onnx / "fp32", lively_model))
    for found, expected in zip(ours, theirs, strict=True):
        assert found["scores"]["nats_per_byte"] == pytest.approx(expected["scores"]["nats_per_byte"], rel=1e-4)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"generation_kwargs": {"do_sample": True}}, "generation_kwargs ask for sampling"),
        ({"generation_kwargs": {"max_gen_tok": 3}}, "unknown key 'generation_kwargs.max_gen_tok'; did you mean"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(
    workspace: Path, seeing_onnx: Path, shown: Path, task: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(seeing_onnx / "fp32", shown, task)


def test_a_question_that_does_not_fit_is_told_or_left_out(workspace: Path, seeing_onnx: Path, shown: Path) -> None:
    """With 16 tokens a picture, prompts of words and of two pictures differ by 32."""
    long = {"generation_kwargs": {"do_sample": False, "max_gen_toks": 200, "until": []}}
    with pytest.raises(DataError, match="leaves no room for an answer of 200 in the context of 256"):
        evaluate(seeing_onnx / "fp32", shown, long)
    found = samples(evaluate(seeing_onnx / "fp32", shown, long, too_long="unanswered"))
    left = [row["id"] for row in found if row.get("unanswered")]
    assert 0 < len(left) < len(found)
