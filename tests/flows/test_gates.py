"""Gates: each refuses exactly what it is there to refuse, and says by how much."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import gates
from flows.evidence import Evidence, Scores, leaked_questions
from flows.gates import Policy, Verdict
from tasks import _artifact as artifact
from tasks._config import read_yaml
from tasks._errors import ConfigError

REPO = Path(__file__).parents[2]
POLICY = Policy.model_validate(
    {
        "form": "int8",
        "served_loss": 0.02,
        "quality": {"metric": "sums.helpful", "gain": 0.0},
        "regression": {"sums.*": 0.05, "reference.*": 0.1},
        "bootstrap": {"resamples": 500, "confidence": 0.95, "seed": 0},
        "allow_changed_evaluation": False,
        "allow_dirty": True,
    }
)
FORM = {
    "max_logprob_difference": 1e-4,
    "kl_per_token": 0.001,
    "argmax_agreement": 0.99,
    "greedy_agreement": 0.99,
    "bytes": 1000,
    "chat_template_identical": True,
    "tokenizer_identical": True,
}
LIMITS = {"max_logprob_difference": None, "kl_per_token": 0.02, "argmax_agreement": 0.9, "greedy_agreement": None}


def scores(label: str, helpful: float, right: float = 0.8, loss: float = 1.0, rows: int = 300) -> Scores:
    """A model that is helpful and right on these shares of the rows, the same rows for everyone."""
    order = random.Random(0).sample(range(rows), rows)
    marks = {f"row{i}": place / rows for place, i in enumerate(order)}
    return Scores(
        label=label,
        digest=label,
        rows={
            "sums.helpful": {row: float(mark < helpful) for row, mark in marks.items()},
            "sums.exact_match": {row: float(mark < right) for row, mark in marks.items()},
            "reference.nats_per_byte": {row: loss + mark for row, mark in marks.items()},
        },
        higher_is_better={"sums.helpful": True, "sums.exact_match": True, "reference.nats_per_byte": False},
        tasks={"sums": "file", "reference": "file"},
    )


def manifest(stage: str, **inputs: str) -> artifact.Manifest:
    return artifact.Manifest(
        stage=stage, params="0", inputs=inputs, files={f"{stage}.bin": "0", "int8/model.onnx": "0"}
    )


@pytest.fixture
def evidence(workspace: Path) -> Evidence:
    """A candidate that passes every gate."""
    data = Path("artifacts/data")
    artifact.write_jsonl(data / "eval/sums.jsonl", [{"id": "1", "question": "What is 2 + 3?", "answer": "5"}])
    artifact.write_jsonl(
        data / "sft/train.jsonl", [{"id": "2", "messages": [{"role": "user", "content": "What is 4 + 3?"}]}]
    )
    artifact.write_json(data / "report.json", {"contaminated": []})
    made = manifest("data")
    model = manifest("dpo", data=made.digest)
    candidate = replace(scores("dpo", 0.7), digest=model.digest)
    chain = {
        "artifacts/data": made,
        "artifacts/models/dpo": model,
        "artifacts/metrics/dpo": manifest("evaluate", model=model.digest, data=made.digest),
        "artifacts/onnx/dpo": manifest("export_onnx", model=model.digest, data=made.digest),
    }
    return Evidence(
        model="dpo",
        digest=model.digest,
        candidate=candidate,
        baseline=scores("champion v1 (sft)", 0.4),
        evaluated=model.digest,
        export=chain["artifacts/onnx/dpo"],
        parity={"forms": {"fp32": FORM, "int8": FORM}, "thresholds": {"fp32": LIMITS, "int8": LIMITS}, "prompts": 8},
        chain=chain,
        data=data,
        served=replace(candidate, label="int8", digest=chain["artifacts/onnx/dpo"].digest),
        stale=[],
        git={"commit": "c" * 40, "dirty": "true"},
    )


def failed(evidence: Evidence, **changed: Any) -> list[Verdict]:
    policy = Policy.model_validate(POLICY.model_dump() | changed)
    return [v for v in gates.judge(evidence, policy) if not v.passed]


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


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("int8", {"kl_per_token": 0.5}),
        ("fp32", {"argmax_agreement": 0.1}),
        ("int8", {"chat_template_identical": False}),
    ],
)
def test_an_unfaithful_export_is_refused(evidence: Evidence, form: str, change: dict[str, Any]) -> None:
    forms = evidence.parity["forms"] | {form: FORM | change}
    (verdict,) = failed(replace(evidence, parity=evidence.parity | {"forms": forms}))
    assert verdict.gate == "parity" and form in verdict.found and next(iter(change)) in verdict.found


def test_an_export_of_other_weights_is_refused(evidence: Evidence) -> None:
    other = evidence.export.model_copy(update={"inputs": evidence.export.inputs | {"model": "older"}})
    assert evidence.served is not None
    (verdict,) = failed(replace(evidence, export=other, served=replace(evidence.served, digest=other.digest)))
    assert verdict.gate == "served form" and "another version" in verdict.found


def test_a_form_without_bound_or_folder_is_not_served(evidence: Evidence) -> None:
    unproven = evidence.parity | {"thresholds": {"fp32": LIMITS, "int8": LIMITS | {"kl_per_token": None}}}
    (verdict,) = failed(replace(evidence, parity=unproven))
    assert verdict.gate == "served form" and "null" in verdict.found
    (verdict,) = failed(evidence, form="int4")
    assert verdict.gate == "served form" and "fp32, int8" in verdict.found


def test_a_question_that_trains_is_refused(evidence: Evidence) -> None:
    assert evidence.data is not None
    row = {"id": "3", "prompt": [{"role": "user", "content": "what is  2 + 3?"}], "answer": "5"}
    artifact.write_jsonl(evidence.data / "prompts/train.jsonl", [row])
    (verdict,) = failed(evidence)
    assert verdict.gate == "contamination" and "what is 2 + 3?" in verdict.found
    assert leaked_questions(evidence.data) == (["what is 2 + 3?"], 1, 2)


def test_training_on_another_split_is_refused(evidence: Evidence) -> None:
    chain = evidence.chain | {"artifacts/models/dpo": manifest("dpo", data="older")}
    assert "contamination" in {v.gate for v in failed(replace(evidence, chain=chain))}


def test_a_lost_parent_is_refused(evidence: Evidence) -> None:
    model = manifest("dpo", data=evidence.chain["artifacts/data"].digest, model="gone")
    chain = evidence.chain | {"artifacts/models/dpo": model}
    verdicts = failed(replace(evidence, chain=chain))
    assert "artifacts/models/dpo: model" in next(v.found for v in verdicts if v.gate == "lineage")


def test_a_changed_workspace_is_refused(evidence: Evidence) -> None:
    (verdict,) = failed(replace(evidence, stale=["dpo", "evaluate@dpo"]))
    assert verdict.gate == "workspace" and "dpo, evaluate@dpo" in verdict.found


def test_commit_and_dirt(evidence: Evidence) -> None:
    (verdict,) = failed(replace(evidence, git={"commit": "none", "dirty": "true"}))
    assert verdict.gate == "commit"
    (verdict,) = failed(evidence, allow_dirty=False)
    assert verdict.gate == "commit" and "and changes" in verdict.found
    assert not failed(replace(evidence, git={"commit": "c", "dirty": "false"}), allow_dirty=False)


def test_a_metric_nobody_thought_of_is_an_error(evidence: Evidence) -> None:
    with pytest.raises(ConfigError, match=r"no pattern.*sums\.exact_match"):
        failed(evidence, regression={"reference.*": 0.1})
    with pytest.raises(ConfigError, match=r"sums\.helpfull.*did you mean 'sums\.helpful'"):
        failed(evidence, quality={"metric": "sums.helpfull", "gain": 0})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  form:", "  from:", r"tiny: unknown key 'from'; did you mean 'form'"),
        ("allow_dirty: true", "allow_dirt: true", r"did you mean 'allow_dirty'"),
        ("gain: 0.0", "", r"missing key 'quality\.gain'"),
        ("resamples: 10000", "resamples: 1", r"'bootstrap\.resamples' is 1"),
        ("tiny:", "tinny:", r"no section 'tiny'; did you mean 'tinny'"),
    ],
)
def test_a_misspelt_policy_is_named(workspace: Path, old: str, new: str, said: str) -> None:
    text = (REPO / "mlflow/gates.yaml").read_text()
    assert old in text
    path = workspace / "gates.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=said):
        gates.load_policy("tiny", path)


def test_every_recipe_has_a_policy_that_fits_its_evaluation() -> None:
    recipes = sorted((REPO / "params").glob("*/evaluate.yaml"))
    assert recipes
    for path in recipes:
        policy = gates.load_policy(path.parent.name, REPO / "mlflow/gates.yaml")
        tasks = [read_yaml(path.parent / task["file"]) for task in read_yaml(path)["tasks"]]
        metrics = {f"{task['task']}.{m['metric']}" for task in tasks for m in task["metric_list"]}
        assert policy.quality.metric in metrics
        for metric in metrics - {policy.quality.metric}:
            gates.bound(metric, policy)
        export = path.with_name("export_onnx.yaml")
        if export.exists():
            assert read_yaml(export)["forms"][policy.form]["thresholds"]["kl_per_token"] is not None
