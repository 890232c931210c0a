"""`--methods` as a graph: names, parents, what is added, and what is refused."""

import pytest

from flows.authoring.graph import ROWS, plan
from tasks.stage import blocks
from tasks.stage.errors import ConfigError
from tests.conftest import REPO


def graph(text: str) -> dict[str, tuple[str, str]]:
    return {model.name: (model.method, model.values["from"]) for model in plan(text)[0]}


def test_methods_start_from_the_first_sft_or_from_what_is_named() -> None:
    assert graph("sft, dpo,grpo@dpo,again=sft@grpo") == {
        "sft": ("sft", "base"),
        "dpo": ("dpo", "sft"),
        "grpo": ("grpo", "dpo"),
        "again": ("sft", "grpo"),
    }
    assert graph("dpo") == {"dpo": ("dpo", "base")}


def test_other_names_of_methods() -> None:
    assert graph("sft,rft,lora") == {"sft": ("sft", "base"), "rft": ("rejection", "sft"), "lora": ("adapt", "sft")}


def test_ppo_is_given_a_reward_model_and_keeps_one_that_is_there() -> None:
    models, notices = plan("sft,ppo")
    assert [model.name for model in models] == ["sft", "reward", "ppo"]
    assert models[2].values == {"from": "sft", "reward": "reward"}
    assert notices == ["ppo needs a reward model: `reward` is added"]
    models, notices = plan("sft,rm=reward,ppo")
    assert (models[2].values["reward"], notices) == ("rm", [])


def test_a_merge_takes_two_children_of_its_parent() -> None:
    assert plan("sft,dpo,kto,merge")[0][3].values["first"] == "dpo"
    with pytest.raises(ConfigError, match="merges two models that were made from 'sft', and before it stand dpo"):
        plan("sft,dpo,merge")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sft,dop", r"'dop'; did you mean 'dpo'\?"),
        ("dpo@sft", "'sft' is no model that stands before it"),
        ("sft,reward,dpo@reward", "'reward' is no model that stands before it"),
        ("sft,sft", "'sft' stands there twice"),
        ("base=sft", "'base' stands there twice"),
        ("sft@", "'sft@' is no method"),
        (" , ", "no method; write at least one"),
    ],
)
def test_what_is_no_graph_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(text)


def test_every_method_is_a_block_of_the_dag_and_has_its_keys() -> None:
    stages = blocks.read(REPO / "dvc.yaml")
    models, _ = plan("sft,dpo,kto,reward,ppo,grpo,rft,lora,distill,prune,quantize,merge")
    assert {model.method for model in models} == set(ROWS)
    for model in models:
        assert set(model.values) == set(stages[model.method].keys), model.name
