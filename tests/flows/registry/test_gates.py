"""Gates: each refuses exactly what it is there to refuse, and says by how much."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.registry import policy as policies
from flows.registry import sight
from flows.registry.evidence import Evidence, leaked_questions
from tasks.stage import artifact
from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError
from tests.support.gating import FORM, LIMITS, failed, manifest, passing

REPO = Path(__file__).parents[3]


@pytest.fixture
def evidence(workspace: Path) -> Evidence:
    """A candidate that passes every gate."""
    return passing()


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


def test_an_export_by_an_older_version_is_refused_in_one_sentence(evidence: Evidence) -> None:
    old = {k: v for k, v in FORM.items() if k not in ("decoding_identical", "search_plain")}
    (verdict,) = failed(replace(evidence, parity=evidence.parity | {"forms": evidence.parity["forms"] | {"int8": old}}))
    assert verdict.gate == "parity"
    said = "int8: decoding_identical, search_plain: not measured when it was exported; `polm run` exports again"
    assert verdict.found.startswith(said) and verdict.found.count("`polm run`") == 1


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


def test_a_benchmarks_question_that_trains_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    """It is found by its prompt and by the question in that, and counts once."""
    assert evidence.data is not None
    questions = evidence.data / "benchmarks/gsm8k/questions.jsonl"
    asked = [f"Ann has {n} pears. How many has she?" for n in (2, 3)]
    rows = [{"id": f"gsm8k:{n}", "texts": [f"Question: {text}\nAnswer:", text]} for n, text in enumerate(asked)]
    artifact.write_jsonl(questions, rows)
    found, count, _ = leaked_questions(evidence.data)
    assert (found, count) == ([], 3)
    for text in (f"question: {asked[1]} Answer:", asked[1]):
        trains = {"id": "3", "prompt": [{"role": "user", "content": text}], "answer": "3"}
        artifact.write_jsonl(evidence.data / "prompts/train.jsonl", [trains])
        assert leaked_questions(evidence.data) == ([f"question: {asked[1].lower()} answer:"], 3, 2)
    (verdict,) = failed(evidence)
    assert verdict.gate == "contamination" and "1 of 3 train too" in verdict.found


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
    broken = {"commit": "none", "dirty": "true", "git_error": "dubious ownership"}
    (verdict,) = failed(replace(evidence, git=broken))
    assert verdict.gate == "commit" and verdict.found == "dubious ownership"
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
        ("\ntiny:\n  form:", "\ntiny:\n  from:", r"tiny: unknown key 'from'; did you mean 'form'"),
        ("\ntiny:\n", "\ntiny:\n  allow_dirt: true\n", r"tiny: .*did you mean 'allow_dirty'"),
        ("\ndefault:\n  form: int8", "\ndefault:", r"default: missing key 'form'"),
        ("gain: 0.0", "", r"default: missing key 'quality\.gain'"),
        ("resamples: 10000", "resamples: 1", r"default: 'bootstrap\.resamples' is 1"),
        ("\ntiny:", "\ntinny:", r"no section 'tiny', and 'tinny' is of no recipe"),
        ("\ndefault:", "\nx:", r"default"),
    ],
)
def test_a_misspelt_policy_is_named(workspace: Path, old: str, new: str, said: str) -> None:
    text = (REPO / "mlflow/gates.yaml").read_text()
    assert old in text
    path = workspace / "gates.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=said):
        policies.load_policy("mine" if new == "\nx:" else "tiny", path)


def test_every_recipe_has_a_policy_that_fits_its_evaluation() -> None:
    recipes = [path for path in sorted((REPO / "params").glob("*/evaluate.yaml")) if read_yaml(path)["tasks"]]
    assert len(recipes) >= 3
    for path in recipes:
        policy = policies.load_policy(path.parent.name, REPO / "mlflow/gates.yaml")
        tasks = [read_yaml(path.parent / task["file"]) for task in read_yaml(path)["tasks"]]
        metrics = {f"{task['task']}.{m['metric']}" for task in tasks for m in task["metric_list"]}
        assert policy.quality.metric in metrics
        for metric in metrics - {policy.quality.metric}:
            policies.bound(metric, policy)
        export = path.with_name("export_onnx.yaml")
        if export.exists():
            assert read_yaml(export)["forms"][policy.form]["thresholds"]["kl_per_token"] is not None


def test_the_bounds_of_readers_are_those_of_the_rows_that_they_are_asked() -> None:
    policy = policies.load_policy("tiny", REPO / "mlflow/gates.yaml", "grounded")
    (path,) = (REPO / "params/tiny").glob("*/facts.yaml")
    task = read_yaml(path)
    metrics = {f"{task['task']}.{m['metric']}" for m in task["metric_list"]}
    assert policy.grounding is not None and policy.quality.metric in metrics
    for metric in metrics - {policy.quality.metric}:
        policies.bound(metric, policy)


def test_every_data_set_that_an_export_is_compared_on_has_a_policy_that_fits_its_evaluation() -> None:
    sections = 0
    for path in sorted((REPO / "params").glob("*/recipe.yaml")):
        for data in set((read_yaml(path).get("export_media") or {}).values()):
            policy = policies.load_policy(path.parent.name, REPO / "mlflow/gates.yaml", data)
            if policy.grounding is not None:  # a reader's: its conditions are its controls
                continue
            choices = read_yaml(path.parent / f"evaluate_{data}.yaml")["tasks"]
            tasks = {read_yaml(path.parent / choice["file"])["task"]: choice["controls"] for choice in choices}
            assert policy.sight is not None and policy.sight.control in tasks[str(policy.quality.metric).split(".")[0]]
            sections += 1
    assert sections


def test_a_score_that_stands_without_its_picture_is_refused(evidence: Evidence) -> None:
    """`low` of the interval decides; of a loss, which falls, the other end."""
    found = {"value": 0.4, "difference": 0.33, "low": 0.3, "high": 0.36}
    asked = {"all": {"other": {"rows": 300, "helpful": found}}}
    policy = {"sight": {"control": "other", "gain": 0.3}}
    assert not failed(replace(evidence, controls={"sums": asked}), **policy)
    (verdict,) = failed(replace(evidence, controls={"sums": asked}), sight={"control": "other", "gain": 0.31})
    assert verdict.gate == "sight" and verdict.found == "+0.3300 [+0.3000, +0.3600] on 300 rows; 0.4000 with it"
    (verdict,) = failed(evidence, **policy)
    assert "sums was not asked under 'other'" in verdict.found
    turned = sight.judge({"sums": asked}, "sums.helpful", False, sight.Sight(control="other", gain=0.3))
    assert turned == (False, "-0.3300 [-0.3600, -0.3000] on 300 rows; 0.4000 with it")
