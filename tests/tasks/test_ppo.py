"""The PPO stage, from a reward model and from a checker. The trainer: `rl/test_ppo.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import ppo
from tasks.models.folder import load_causal_lm
from tasks.stage import artifact, trainer_config
from tasks.stage.errors import ConfigError, ModelError
from tests.support.ppo import LOGGED, configured

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRun = Callable[..., Any]


def test_rlhf_writes_the_policy_alone_with_its_adapter(
    make_run: MakeRun, chat_model: Path, reward_model: Path, sums_data: Path
) -> None:
    run = make_run("ppo")
    lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    ppo.main(configured(lora), run, model=chat_model, reward=reward_model, data=sums_data)
    assert load_causal_lm(run.out).config.architectures == ["LlamaForCausalLM"]
    assert (run.out / "adapter/adapter_model.safetensors").exists()
    figures = artifact.read_json(run.out / "metrics.json")
    assert 0 < figures["trainable_parameters"] < figures["parameters"]
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert curve[0]["reward"] == pytest.approx(curve[0][f"rewards/{reward_model.name}/mean"])
    assert curve[0]["rewards/helpful/mean"] == 0
    assert curve[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert set(curve[0]) >= LOGGED
    assert artifact.read_json(run.out / "reward.json")["gold"] == "helpful"


def test_reft_learns_from_a_checker_and_only_tracks_the_reward_model(
    make_run: MakeRun, chat_model: Path, reward_model: Path, sums_data: Path
) -> None:
    run = make_run("reft")
    brief = {"grader": "length_at_most", "weight": 1.0, "options": {"characters": 6}}
    config = configured(reward_weight=0.0, graders={"brief": brief}, gold=None)
    ppo.main(config, run, model=chat_model, reward=reward_model, data=sums_data)
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert curve[0]["reward"] == curve[0]["rewards/brief/mean"]
    assert f"rewards/{reward_model.name}/mean" in curve[0]


def test_what_cannot_work_is_refused_at_once(
    make_run: MakeRun, chat_model: Path, reward_model: Path, sums_data: Path
) -> None:
    inputs: dict[str, Path] = {"model": chat_model, "reward": reward_model, "data": sums_data}
    run = make_run("ppo")
    with pytest.raises(ConfigError, match=r"nothing to learn from"):
        ppo.main(configured(reward_weight=0.0), run, **inputs)
    with pytest.raises(ConfigError, match=r"trainer.beta is set by the stage itself"):
        ppo.main(configured(trainer={"beta": 0.1}), run, **inputs)
    with pytest.raises(ConfigError, match=r"gold is 'helpfull', which is no grader; did you mean 'helpful'"):
        ppo.main(configured(gold="helpfull"), run, **inputs)
    with pytest.raises(ModelError, match=r"holds LlamaForCausalLM and no reward model"):
        ppo.main(configured(), run, **inputs | {"reward": chat_model})


def test_the_check_of_a_recipe_knows_what_ppo_sets() -> None:
    sections = configured(trainer={"beta": 0.1}).verbatim(ppo.trainer_class())
    assert "beta" in sections[0].reserved
    assert set(trainer_config.RESERVED) <= set(sections[0].reserved)
    assert json.dumps(sections[0].values)
