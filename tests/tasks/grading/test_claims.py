"""Claims by default: a method's kind of metric, of those that its evaluation gave; none where a recipe states one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.grading import claims
from tasks.stage import artifact, blocks, recipe
from tests.conftest import REPO
from tests.support import report_tree

GSM8K = {"gsm8k": {"higher_is_better": {"exact_match[flexible-extract]": True, "exact_match[strict-match]": True}}}
IFEVAL = {
    "ifeval": {
        "higher_is_better": dict.fromkeys(
            ("inst_level_loose_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "prompt_level_strict_acc"), True
        )
    }
}
LAMBADA = {"lambada_openai": {"higher_is_better": {"acc": True, "perplexity": False}}}
WIKITEXT = {"wikitext": {"higher_is_better": {"bits_per_byte": False, "word_perplexity": False}}}
SPOKEN = {"spoken": {"higher_is_better": {"exact_match": True, "wer": False}}}
PAIRS = {
    "answers": {"higher_is_better": {"exact_match": True}},
    "pairs": {"higher_is_better": {"accuracy": True}},
    "replies": {"higher_is_better": {"nats_per_byte": False}},
}
POLITE = {"faq": {"higher_is_better": {"politeness": True, "nats_per_byte": False}}}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, make_artifact: report_tree.Make) -> Mapping[str, Any]:
    """Results of the shipped graders, read from the file that an evaluation writes."""
    folder = report_tree.build(tmp_path_factory.mktemp("tree"), make_artifact, rows=20)
    tasks: dict[str, Any] = artifact.read_json(folder / "metrics/dpo/results.json")["tasks"]
    assert list(tasks) == ["reference", "sums"], "by name, and not in the recipe's order"
    return tasks


def graph(folder: Path, models: Mapping[str, Any], tasks: list[str] | None = None) -> recipe.Graph:
    """Write a graph of models, and an evaluation file whose own tasks, and benchmarks (`!name`), are these."""
    path = folder / "mine" / recipe.FILE
    (path.parent / "eval").mkdir(parents=True)
    path.write_text(json.dumps({"recipe": "mine", **models, "evaluate": ["base"], "export": [], "forms": []}))
    if tasks is not None:
        choices = [{"benchmark": task[1:]} if task[0] == "!" else {"file": f"eval/{task}.yaml"} for task in tasks]
        path.with_name("evaluate.yaml").write_text(json.dumps({"tasks": choices}))
        for task in tasks:
            (path.parent / "eval" / f"{task}.yaml").write_text(json.dumps({"task": task}))
    return recipe.read(path)


@pytest.mark.parametrize(
    ("method", "metric"),
    [
        *((method, "sums.exact_match") for method in ("sft", "adapt", "grpo", "rejection", "refine", "distill")),
        *((method, "sums.exact_match") for method in ("merge", "prune", "quantize", "reader", "vlm")),
        *((method, "sums.helpful") for method in ("dpo", "kto", "ppo", "rlaif", "online_dpo", "vlm_dpo", "reader_dpo")),
        *((method, "sums.exact_match") for method in ("align_speech", "speech")),
    ],
)
def test_a_method_claims_its_kind_of_metric(
    scored: Mapping[str, Any], tmp_path: Path, method: str, metric: str
) -> None:
    read = graph(tmp_path, {method: {"model": {"from": "base"}}}, ["sums", "reference"])
    assert claims.by_default(read, {"model": scored}) == {"model": metric}


@pytest.mark.parametrize(
    ("method", "tasks", "metric"),
    [
        ("grpo", GSM8K, "gsm8k.exact_match[strict-match]"),
        ("sft", IFEVAL, "ifeval.inst_level_strict_acc"),
        ("sft", LAMBADA, "lambada_openai.acc"),
        ("sft", WIKITEXT, "wikitext.bits_per_byte"),
        ("speech", SPOKEN, "spoken.wer"),
        ("sft", SPOKEN, "spoken.exact_match"),
        ("sft", POLITE, "faq.politeness"),
        ("sft", {"faq": {"higher_is_better": {"followed": False, "nats_per_byte": False}}}, "faq.followed"),
        ("dpo", POLITE, "faq.politeness"),
        ("dpo", PAIRS, "pairs.accuracy"),
        ("sft", PAIRS, "answers.exact_match"),
    ],
)
def test_metrics_of_benchmarks_and_of_own_graders(
    tmp_path: Path, method: str, tasks: Mapping[str, Any], metric: str
) -> None:
    read = graph(tmp_path, {method: {"model": {"from": "base"}}})
    assert claims.by_default(read, {"model": tasks}) == {"model": metric}


def test_a_name_in_the_other_direction_is_of_no_known_kind() -> None:
    assert claims.kind("faq", "followed", True) is claims.ANSWER
    assert claims.kind("faq", "followed", False) is claims.OTHER, (
        "instructions of a passage, which should not be followed"
    )
    assert claims.kind("faq", "nats_per_byte", True) is claims.OTHER


def test_the_methods_of_the_table_are_those_of_the_graph() -> None:
    methods = {name for name, block in blocks.read(REPO / "dvc.yaml").items() if block.method}
    assert claims.ORDERS.keys() <= methods
    assert all(sorted(map(id, order)) == sorted(map(id, claims.KINDS)) for order in claims.ORDERS.values())
    assert sorted(map(id, claims.RIGHT_ANSWERS)) == sorted(map(id, claims.KINDS))


def test_the_recipes_own_tasks_come_first_in_its_order_then_its_benchmarks(tmp_path: Path) -> None:
    right = {"higher_is_better": {"exact_match": True}}
    results = dict.fromkeys(("alpha", "mmlu_anatomy", "mmlu_virology", "zeta", "stray"), right)
    read = graph(tmp_path, {"sft": {"sft": {"from": "base"}}}, ["!mmlu", "zeta", "alpha"])
    assert list(claims.in_order(read, "sft", results)) == ["zeta", "alpha", "mmlu_anatomy", "mmlu_virology", "stray"]
    assert claims.by_default(read, {"sft": results}) == {"sft": "zeta.exact_match"}


def test_a_recipe_that_states_a_claim_has_stated_all_of_them(scored: Mapping[str, Any], tmp_path: Path) -> None:
    models = {"sft": {"sft": {"from": "base", "claim": "reference.nats_per_byte"}}, "dpo": {"dpo": {"from": "sft"}}}
    read = graph(tmp_path, models)
    assert claims.by_default(read, {"sft": scored, "dpo": scored}) == {}
    assert claims.headline(read.claims, read, {"sft": scored, "dpo": scored}) == "reference.nats_per_byte"


def test_what_was_not_evaluated_claims_nothing(scored: Mapping[str, Any], tmp_path: Path) -> None:
    read = graph(tmp_path, {"sft": {"sft": {"from": "base"}}, "dpo": {"dpo": {"from": "sft"}}}, ["sums", "reference"])
    chosen = claims.by_default(read, {"base": scored, "sft": scored})
    assert chosen == {"sft": "sums.exact_match"}
    assert claims.headline(chosen, read, {"base": scored, "sft": scored}) == "sums.exact_match"
    both = claims.by_default(read, {"sft": scored, "dpo": scored})
    assert claims.headline(both, read, {"sft": scored, "dpo": scored}) == "sums.helpful", "of the last model"
    assert claims.headline({}, read, {"base": scored}) == "sums.exact_match"
    assert claims.headline({}, read, {}) is None


def test_every_shipped_recipe_states_its_claims() -> None:
    recipes = sorted((REPO / "params").glob("*/recipe.yaml"))
    assert len(recipes) >= 4
    assert all(recipe.read(path).claims for path in recipes), "its report would say other things than it does"
