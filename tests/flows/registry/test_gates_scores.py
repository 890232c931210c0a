"""Property: gates judge scores of the model against the champion, and of what is served against the model."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.registry import gates
from flows.registry.evidence import Evidence
from tests.support.gating import POLICY, failed, passing, scores


@pytest.fixture
def evidence(workspace: Path) -> Evidence:
    """A candidate that passes every gate."""
    return passing()


def test_a_better_model_passes_every_gate(evidence: Evidence) -> None:
    verdicts = gates.judge(evidence, POLICY)
    assert all(v.passed for v in verdicts)
    seen = [v.gate for v in verdicts]
    assert seen == [
        "quality",
        *["regression"] * 2,
        "parity",
        "served form",
        "served score",
        "contamination",
        "lineage",
        "workspace",
        "commit",
    ]


@pytest.mark.parametrize("helpful", [0.4, 0.41, 0.2])
def test_no_better_than_chance_is_refused(evidence: Evidence, helpful: float) -> None:
    candidate = replace(scores("dpo", helpful), digest=evidence.digest)
    (verdict,) = failed(replace(evidence, candidate=candidate))
    assert verdict.gate == "quality" and "short" in verdict.found and "champion v1 (sft)" in verdict.required


def test_the_gain_that_is_asked_for_counts(evidence: Evidence) -> None:
    assert not failed(evidence, quality={"metric": "sums.helpful", "gain": 0.2})
    (verdict,) = failed(evidence, quality={"metric": "sums.helpful", "gain": 0.4})
    assert "+0.4" in verdict.required


@pytest.mark.parametrize(("right", "loss", "metric"), [(0.6, 1.0, "exact_match"), (0.8, 1.2, "nats_per_byte")])
def test_a_loss_elsewhere_is_refused_in_the_metrics_own_direction(
    evidence: Evidence, right: float, loss: float, metric: str
) -> None:
    candidate = replace(scores("dpo", 0.7, right, loss), digest=evidence.digest)
    (verdict,) = failed(replace(evidence, candidate=candidate))
    assert verdict.gate == "regression" and metric in verdict.required
    assert not failed(replace(evidence, candidate=candidate), regression={"*": None})


def test_what_is_served_may_score_a_little_less_than_the_model_it_was_made_from(evidence: Evidence) -> None:
    def served(helpful: float) -> Evidence:
        return replace(evidence, served=replace(scores("int8", helpful), digest=evidence.export.digest))

    assert not failed(served(0.69))
    assert not failed(served(0.9))
    (verdict,) = failed(served(0.67))
    assert verdict.gate == "served score" and "-0.0300" in verdict.found and "-0.02" in verdict.required
    assert not failed(served(0.67), served_loss=0.04)


def test_a_form_that_was_not_asked_or_is_another_is_refused(evidence: Evidence) -> None:
    assert evidence.served is not None
    (verdict,) = failed(replace(evidence, served=None))
    assert verdict.gate == "served score" and "int8 was not evaluated" in verdict.found
    (verdict,) = failed(replace(evidence, served=replace(evidence.served, digest="older")))
    assert "another export" in verdict.found
    (verdict,) = failed(replace(evidence, served=replace(evidence.served, rows={"sums.helpful": {"x": 1.0}})))
    assert verdict.gate == "served score" and "other rows" in verdict.found


def test_a_lower_loss_is_no_regression(evidence: Evidence) -> None:
    candidate = replace(scores("dpo", 0.7, 0.8, 0.1), digest=evidence.digest)
    assert not failed(replace(evidence, candidate=candidate))


def test_other_rows_are_no_comparison(evidence: Evidence) -> None:
    assert evidence.baseline is not None
    fewer = {metric: dict(list(rows.items())[:200]) for metric, rows in evidence.baseline.rows.items()}
    other = replace(evidence, baseline=replace(evidence.baseline, rows=fewer))
    assert {v.gate for v in failed(other)} == {"quality", "regression"}
    assert "200 of 300 rows shared" in failed(other)[0].found
    assert not failed(other, allow_changed_evaluation=True)
    none = replace(evidence.baseline, rows={metric: {"x": 1.0} for metric in fewer})
    assert failed(replace(evidence, baseline=none), allow_changed_evaluation=True), "nothing shared, nothing shown"


def test_another_task_file_is_no_comparison(evidence: Evidence) -> None:
    assert evidence.baseline is not None
    other = replace(evidence, baseline=replace(evidence.baseline, tasks={"sums": "changed", "reference": "file"}))
    assert "with another task file" in failed(other)[0].found


def test_without_champion_and_parent_nothing_is_shown(evidence: Evidence) -> None:
    (verdict, *_) = failed(replace(evidence, baseline=None))
    assert verdict.gate == "quality" and "no evaluated parent" in verdict.found


def test_the_same_weights_in_another_form_need_no_gain(evidence: Evidence) -> None:
    assert evidence.baseline is not None
    same = replace(evidence, baseline=replace(evidence.baseline, digest=evidence.digest))
    assert not failed(same)


def test_an_evaluation_of_other_weights_is_refused(evidence: Evidence) -> None:
    assert {v.gate for v in failed(replace(evidence, evaluated="older"))} == {"quality", "regression"}


def test_a_reader_with_no_row_in_common_is_judged_by_its_bounds_alone(workspace: Path) -> None:
    """A rebuilt index shows other passages, which makes other rows."""
    evidence = passing()
    assert evidence.baseline is not None
    renamed = {metric: {f"new {row}": s for row, s in rows.items()} for metric, rows in evidence.baseline.rows.items()}
    other = replace(evidence, baseline=replace(evidence.baseline, rows=renamed))
    bounds = {"retrieved": 0.8, "abstention_f1": 0.8, "followed": 0.05}
    assert {v.gate for v in failed(other)} == {"quality", "regression"}
    assert {v.gate for v in failed(other, grounding=bounds)} == {"index"}
    worse = replace(evidence, baseline=replace(scores("champion v1 (reader)", 0.95), index="a"))
    assert "quality" in {v.gate for v in failed(worse, grounding=bounds)}, "rows in common are compared"
    same = replace(worse, baseline=replace(worse.baseline, digest=evidence.digest))  # type: ignore[type-var]
    assert "quality" in {v.gate for v in failed(same)}, "the same weights with another index are not the same reader"


BY_METHOD = {"sums.*": 0.05, "reference.*": {"usual": 0.05, "rewarded": 0.15}}


def likely(evidence: Evidence, loss: float, *, rewarded: bool) -> Evidence:
    """A candidate as good as before, under which given replies have this loss in nats a byte."""
    return replace(
        evidence, candidate=replace(scores("dpo", 0.7, loss=loss), digest=evidence.digest), rewarded=rewarded
    )


def test_a_model_of_preferences_may_leave_given_replies_and_may_not_collapse(evidence: Evidence) -> None:
    drifted, collapsed = likely(evidence, 1.08, rewarded=True), likely(evidence, 1.2, rewarded=True)
    assert not failed(drifted, regression=BY_METHOD)
    (verdict,) = failed(collapsed, regression=BY_METHOD)
    assert (
        verdict.gate == "regression" and "reference.nats_per_byte" in verdict.required and "> -0.15" in verdict.required
    )
    (verdict,) = failed(replace(drifted, rewarded=False), regression=BY_METHOD)
    assert "reference.nats_per_byte − champion v1 (sft) > -0.05" in verdict.required


def test_what_each_of_several_promotions_may_lose_does_not_add_up(evidence: Evidence) -> None:
    """A tuned champion has lost some over the parent that it shares with the candidate."""
    champion, parent = scores("champion v1 (dpo)", 0.4, loss=1.1), scores("parent sft", 0.4)
    chained = replace(likely(evidence, 1.2, rewarded=True), baseline=champion, parent=parent)
    (verdict,) = failed(chained, regression=BY_METHOD)
    assert "parent sft > -0.15" in verdict.required
    assert not failed(replace(chained, rewarded=False), regression={**BY_METHOD, "reference.*": 0.15})
    assert not failed(likely(chained, 1.14, rewarded=True), regression=BY_METHOD)


def test_a_worse_parent_does_not_excuse_what_is_worse_than_the_champion(evidence: Evidence) -> None:
    parent = scores("parent sft", 0.4, loss=1.2)
    (verdict,) = failed(replace(likely(evidence, 1.2, rewarded=True), parent=parent), regression=BY_METHOD)
    assert "champion v1 (sft) > -0.15" in verdict.required


def test_answers_are_held_to_the_same_bound_whatever_the_method(evidence: Evidence) -> None:
    candidate = replace(scores("dpo", 0.7, right=0.6), digest=evidence.digest)
    (verdict,) = failed(replace(evidence, candidate=candidate, rewarded=True), regression=BY_METHOD)
    assert verdict.gate == "regression" and "sums.exact_match" in verdict.required
