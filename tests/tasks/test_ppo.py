"""The PPO stage, from a reward model and from a checker. The trainer: `test_ppo_trainer.py`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import ppo
from tasks.generators import arithmetic
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.stage import artifact, trainer_config
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError, ModelError

MakeRun = Callable[..., Any]
NUMBERS: dict[str, Any] = {
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "kl_coef": 0.01,
    "kl_target": None,
    "kl_horizon": 1000.0,
    "value_clip": 0.2,
    "value_coef": 0.1,
    "value_learning_rate": 2e-3,
    "missing_eos_penalty": 0.0,
    "whiten_advantages": True,
}
TRAINER: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "max_completion_length": 4,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "constant",
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "logging_steps": 1,
}
LOGGED = {
    "reward", "kl", "entropy", "clip_fraction", "approx_kl", "explained_variance", "value_loss", "policy_loss",
    "completions/mean_length", "kl_coef", "eos_rate",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from a second thread, and on a busy machine waits for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def reward_model(chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> Path:
    """A reward model as the reward stage writes it, untrained."""
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(chat_model)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        chat_model, num_labels=1, dtype="float32", pad_token_id=tokenizer.pad_token_id
    )
    folder = tmp_path_factory.mktemp("reward")
    save_model(model, tokenizer, folder)
    make_artifact(folder, stage="reward")
    return folder


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> Path:
    """A data artifact with a set of prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    rows = [
        {"id": str(i), "prompt": [{"role": "user", "content": r["question"]}], "answer": r["answer"], "source": "test"}
        for i, r in enumerate(arithmetic.questions(32, 4, [1, 2]))
    ]
    artifact.write_jsonl(folder / "prompts" / "train.jsonl", rows)
    make_artifact(folder, stage="data")
    return folder


def configured(peft: dict[str, Any] | None = None, trainer: dict[str, Any] | None = None, **changes: Any) -> ppo.Config:
    values = {
        "seed": 1,
        "threads": 2,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": "prompts",
        "peft": peft,
        "reward_weight": 1.0,
        "graders": {"helpful": {"grader": "sums", "weight": 0.0, "options": {"metric": "helpful"}}},
        "gold": "helpful",
        "ppo": NUMBERS,
        "trainer": TRAINER | {"max_steps": 2, "save_steps": 2} | (trainer or {}),
    }
    return parse(Path("params/test.yaml"), values | changes, ppo.Config)


def test_rlhf_writes_the_policy_alone_with_its_adapter(
    make_run: MakeRun, chat_model: Path, reward_model: Path, prompts: Path
) -> None:
    run = make_run("ppo")
    lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    ppo.main(configured(lora), run, model=chat_model, reward=reward_model, data=prompts)
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
    make_run: MakeRun, chat_model: Path, reward_model: Path, prompts: Path
) -> None:
    run = make_run("reft")
    brief = {"grader": "length_at_most", "weight": 1.0, "options": {"characters": 6}}
    config = configured(reward_weight=0.0, graders={"brief": brief}, gold=None)
    ppo.main(config, run, model=chat_model, reward=reward_model, data=prompts)
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert curve[0]["reward"] == curve[0]["rewards/brief/mean"]
    assert f"rewards/{reward_model.name}/mean" in curve[0]


def test_what_cannot_work_is_refused_at_once(
    make_run: MakeRun, chat_model: Path, reward_model: Path, prompts: Path
) -> None:
    inputs: dict[str, Path] = {"model": chat_model, "reward": reward_model, "data": prompts}
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
