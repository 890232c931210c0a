"""The set of a recipe's graders: weights, failures, mistakes in a recipe. A grader that breaks breaks nothing."""

import logging
from typing import Any

import pytest

from tasks.rewards import functions as rewards
from tasks.rewards.composite import Rewards, RewardSpec
from tasks.stage.errors import ConfigError
from tests.support.rewards import OPTIONS, SUM, WHERE, specs


def test_totals_are_weighted_and_weight_zero_is_tracked() -> None:
    graders = specs(
        right=("numeric", 1.0, {}), manner=("sums", 0.5, {"metric": "courteous"}), gold=("sums", 0.0, OPTIONS["sums"])
    )
    made = Rewards(graders, WHERE)
    assert (made.names, made.weights) == (["right", "manner", "gold"], [1.0, 0.5, 0.0])
    assert made.totals(["125. Happy to help!", "125", "1"], [SUM] * 3) == [1.5, 1.0, 0.0]
    assert made.totals([], []) == []
    assert made.report()["gold"] == {"weight": 0.0, "calls": 3, "failures": 0, "example": None}


def test_a_grader_that_raises_counts_as_zero_and_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(response: str, row: Any) -> float:
        if response == "bad":
            raise KeyError("oops")
        return {"nan": float("nan"), "big": 7.0}.get(response, 1.0)

    monkeypatch.setattr(rewards, "exact", broken)
    monkeypatch.setattr(logging.getLogger("polm"), "propagate", True)
    made = Rewards(specs(x=("exact", 1.0, {}), y=("numeric", 1.0, {})), WHERE)
    assert made.score("x", ["1", "bad", "bad", "nan", "big"], [SUM] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert made.score("y", ["1"], [{}]) == [0.0]
    assert made.failures == {"x": 4, "y": 1}
    assert made.report() == {
        "x": {"weight": 1.0, "calls": 5, "failures": 4, "example": "KeyError: 'oops'"},
        "y": {"weight": 1.0, "calls": 1, "failures": 1, "example": made.report()["y"]["example"]},
    }
    assert "the row has no 'answer'" in made.report()["y"]["example"]
    assert [r.getMessage().partition(" failed")[0] for r in caplog.records] == [f"{WHERE}: graders.{n}" for n in "xy"]


@pytest.mark.parametrize(
    ("grader", "options", "message"),
    [
        ("numerc", {}, "graders.x.grader: no grader 'numerc'; did you mean 'numeric'?"),
        ("Rewards", {}, "graders.x.grader: no grader 'Rewards'"),
        ("sums", {"metrc": "helpful"}, "unknown key 'graders.x.options.metrc'; did you mean 'metric'?"),
        ("sums", {}, "missing key 'graders.x.options.metric'"),
        ("sums", {"metric": "helpfull"}, "'graders.x.options.metric' is 'helpfull': Input should be"),
        ("exact", {"case": True}, "unknown key 'graders.x.options.case'"),
        ("format", {"pattern": "("}, "'graders.x.options.pattern' is '(': Input should be a valid regular expression"),
        ("json_schema", {"schema": {"type": "objct"}}, "no JSON schema: 'objct' is not valid"),
        ("reasoning_gym", {"dataset": "chain_sums", "partial": True}, "did you mean 'chain_sum'?"),
        ("overlong", {"max_characters": 9, "buffer_characters": 0}, "should be greater than 0"),
        ("length_at_most", {"characters": -1}, "should be greater than or equal to 0"),
    ],
)
def test_wrong_recipes_fail_first(grader: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Rewards(specs(fine=("exact", 1.0, {}), x=(grader, 1.0, options)), WHERE)
    assert message in str(caught.value)
    assert all(line.startswith(f"{WHERE}: ") for line in str(caught.value).splitlines())


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Rewards(specs(x=("nope", 1.0, {}), y=("format", 1.0, {"patern": "a"})), WHERE)
    assert len(str(caught.value).splitlines()) == 3


def test_a_weight_is_a_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        RewardSpec(grader="exact", weight=float("nan"), options={})
