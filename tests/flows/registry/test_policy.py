"""The policy: a default section, overridden key by key; what a missing metric, few rows and brackets do to a gate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.registry import policy
from flows.registry.evidence import Evidence
from flows.registry.verdict import table
from tasks.stage import blocks, recipe
from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError
from tests.conftest import REPO
from tests.support.gating import POLICY, failed, passing

GATES = REPO / "mlflow/gates.yaml"
STRICT = "gsm8k.exact_match[strict-match]"


@pytest.fixture
def evidence(workspace: Path) -> Evidence:
    """A candidate that passes every gate."""
    return passing()


def gates(folder: Path, more: str) -> Path:
    """Write the shipped default section, and a section of a recipe below it."""
    text = GATES.read_text()
    path = folder / "gates.yaml"
    path.write_text(text[: text.index("\ntiny:")] + more)
    return path


def test_a_recipe_without_a_section_has_the_default_one(tmp_path: Path) -> None:
    path = gates(tmp_path, "\n")
    held = policy.load_policy("mine", path)
    assert held.model_dump() == {"sight": None, "grounding": None, **read_yaml(path)["default"]}
    assert policy.is_default("mine", path)
    assert (held.quality.metric, held.quality.gain, held.allow_changed_evaluation) == (None, 0.0, False)


def test_a_section_overrides_the_default_key_by_key(tmp_path: Path) -> None:
    more = "\nmine:\n  form: fp32\n  quality: {gain: 0.02}\n  regression: {faq.*: null}\n  bootstrap: {seed: 7}\n"
    path = gates(tmp_path, more)
    held, shared = policy.load_policy("mine", path), policy.load_policy("other", path)
    changed = {"form": "fp32", "quality": {"metric": None, "gain": 0.02}, "least_rows": shared.least_rows}
    assert held.model_dump(include=set(changed)) == changed
    assert held.bootstrap.model_dump() == shared.bootstrap.model_dump() | {"seed": 7}
    assert list(held.regression) == ["faq.*", *shared.regression], "its own patterns are tried first"
    assert policy.bound("faq.exact_match", held) is None and policy.bound("faq.exact_match", shared) == 0.05
    assert not policy.is_default("mine", path)


def test_null_overrides_too(tmp_path: Path) -> None:
    path = gates(tmp_path, "\nmine:\n  least_rows: null\n")
    assert policy.load_policy("mine", path).least_rows is None
    assert policy.load_policy("other", path).least_rows == 30


def test_pictures_and_sounds_have_a_default_of_their_own(tmp_path: Path) -> None:
    path = gates(tmp_path, "\nmine/sounds:\n  sight: {gain: 0.2}\nmine/read:\n  grounding: {}\n")
    held = policy.load_policy("mine", path, "pictures")
    assert held.sight is not None and (held.sight.control, held.sight.gain) == ("other", 0.05)
    assert held.model_copy(update={"sight": None}) == policy.load_policy("mine", path)
    sounds = policy.load_policy("mine", path, "sounds").sight
    assert sounds is not None and (sounds.control, sounds.gain) == ("other", 0.2)
    with pytest.raises(ConfigError, match=r"mine/read: missing key 'grounding\.retrieved'"):
        policy.load_policy("mine", path, "read")
    path.write_text(path.read_text().replace("default/media", "x/media"))
    with pytest.raises(ConfigError, match=r"no section 'mine/pictures', which has to have a key 'sight'"):
        policy.load_policy("mine", path, "pictures")


def test_a_model_that_was_not_asked_under_the_control_is_refused(evidence: Evidence) -> None:
    (verdict,) = failed(evidence, sight={"control": "other", "gain": 0.05})
    assert verdict.gate == "sight" and "sums was not asked under 'other'" in verdict.found


def test_a_section_that_is_no_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'mine' is None; expected a mapping"):
        policy.load_policy("mine", gates(tmp_path, "\nmine:\n"))


@pytest.mark.parametrize("recipe", ["tiny", "smollm2", "qwen3"])
def test_a_shipped_section_says_what_it_said_before_there_was_a_default(recipe: str) -> None:
    own = read_yaml(GATES)[recipe]
    held = policy.load_policy(recipe, GATES)
    assert held.model_dump(include=set(own) - {"regression"}) == {k: v for k, v in own.items() if k != "regression"}
    assert list(held.regression.items())[: len(own["regression"])] == list(own["regression"].items())


def test_the_claim_stands_in_for_a_metric_that_is_null() -> None:
    open_policy = POLICY.model_copy(update={"quality": policy.Quality(metric=None, gain=0.1)})
    assert policy.with_metric(open_policy, "sums.helpful").quality == policy.Quality(metric="sums.helpful", gain=0.1)
    assert policy.with_metric(POLICY, "sums.exact_match") is POLICY, "a metric that is named stays"
    with pytest.raises(ConfigError, match=r"quality\.metric is null.*name its metric there, or as `claim`"):
        policy.main_metric(policy.with_metric(open_policy, None))


def test_likelihood_has_a_bound_for_each_kind_of_method(tmp_path: Path) -> None:
    held = policy.load_policy("mine", gates(tmp_path, "\nmine:\n  regression: {faq.nats_per_byte: 0.02}\n"))
    bounds = {
        (metric, rewarded): policy.bound(metric, held, rewarded=rewarded)
        for metric in ("replies.nats_per_byte", "faq.nats_per_byte", "answers.exact_match")
        for rewarded in (False, True)
    }
    assert bounds == {
        ("replies.nats_per_byte", False): 0.05,
        ("replies.nats_per_byte", True): 0.15,
        ("faq.nats_per_byte", False): 0.02,
        ("faq.nats_per_byte", True): 0.02,
        ("answers.exact_match", False): 0.05,
        ("answers.exact_match", True): 0.05,
    }, "a recipe's own number holds for every method"
    assert policy.beside_parent("replies.nats_per_byte", held)
    assert not policy.beside_parent("faq.nats_per_byte", held)


@pytest.mark.parametrize(
    ("model", "rewarded"),
    [("sft", False), ("base", False), ("dpo", True), ("again", True), ("student", True), ("both", True)],
)
def test_what_learns_from_a_rewarded_model_is_one(tmp_path: Path, model: str, rewarded: bool) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "recipe: mine\nsft: {sft: {from: base}, again: {from: dpo}}\ndpo: {dpo: {from: sft}}\n"
        "distill: {student: {from: sft, teacher: dpo}}\nmerge: {both: {from: base, first: sft, second: again}}\n"
        "evaluate: []\nexport: []\nforms: []\n"
    )
    assert policy.by_rewards(model, recipe.read(path)) is rewarded


def test_methods_by_rewards_are_methods_of_the_pipeline() -> None:
    assert set(blocks.read(REPO / "dvc.yaml")) >= policy.BY_REWARDS


def benchmark(evidence: Evidence) -> Evidence:
    """The same evidence, of a metric of a benchmark."""

    def renamed(scores: Any) -> Any:
        return replace(
            scores,
            rows={**scores.rows, STRICT: scores.rows["sums.helpful"]},
            higher_is_better={**scores.higher_is_better, STRICT: True},
        )

    sides = {"candidate": evidence.candidate, "baseline": evidence.baseline, "served": evidence.served}
    return replace(evidence, **{key: renamed(value) for key, value in sides.items()})


def test_a_benchmarks_metric_is_a_gate_and_brackets_stand_for_themselves(evidence: Evidence) -> None:
    asked = benchmark(evidence)
    bounds = {"sums.*": 0.05, "reference.*": 0.1}
    assert not failed(asked, quality={"metric": STRICT, "gain": 0.0}, regression=bounds)
    (verdict,) = failed(asked, quality={"metric": STRICT, "gain": 0.9}, regression=bounds)
    assert verdict.gate == "quality" and STRICT in verdict.required
    assert not failed(asked, regression={**bounds, STRICT: 0.05})
    assert not failed(asked, regression={**bounds, "gsm8k.*[strict-match]": 0.05})
    with pytest.raises(ConfigError, match="no pattern"):
        failed(asked, regression={**bounds, "gsm8k.exact_match[flexible-extract]": 0.05})


def test_the_table_prints_brackets(evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    verdicts = failed(
        benchmark(evidence), quality={"metric": STRICT, "gain": 0.9}, regression={"sums.*": 0.05, "reference.*": 0.1}
    )
    Console(width=200).print(table("dpo", verdicts))
    assert STRICT in capsys.readouterr().out


def test_a_metric_that_the_candidate_was_not_asked_is_a_refusal_that_names_it(evidence: Evidence) -> None:
    lost = {metric: rows for metric, rows in evidence.candidate.rows.items() if metric != "sums.exact_match"}
    without = replace(evidence, candidate=replace(evidence.candidate, rows=lost))
    (verdict,) = failed(without)
    assert verdict.gate == "regression" and "sums.exact_match, which champion v1 (sft) answered" in verdict.required
    assert "dpo was not evaluated on sums" in verdict.found
    assert not failed(without, regression={"sums.exact_match": None, "*": 0.1})
    with pytest.raises(ConfigError, match=r"quality\.metric 'sums\.exact_match' was not evaluated of dpo"):
        failed(without, quality={"metric": "sums.exact_match", "gain": 0.0})


def test_too_few_rows_make_no_interval(evidence: Evidence) -> None:
    assert not failed(evidence, least_rows=300)
    verdicts = failed(evidence, least_rows=301)
    assert {v.gate for v in verdicts} == {"quality", "regression", "served score"}
    assert all("300 rows, too few for an interval: least_rows is 301" in v.found for v in verdicts)
