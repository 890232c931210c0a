"""PPO: its equations against plain loops and gradients by hand, the trainer on a bandit, and the stage."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from tasks import _arithmetic, _train, ppo
from tasks import _artifact as artifact
from tasks import _ppo_math as equations
from tasks._config import parse
from tasks._errors import ConfigError, ModelError
from tasks._models import load_causal_lm, load_tokenizer, save_model
from tasks._ppo import PPOConfig, PPOTrainer

MakeRun = Callable[[str], Any]
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
        for i, r in enumerate(_arithmetic.questions(32, 4, [1, 2]))
    ]
    artifact.write_jsonl(folder / "prompts" / "train.jsonl", rows)
    make_artifact(folder, stage="data")
    return folder


def even_first_token(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A bandit: 1 for a first token of even number, else 0. Half of what an untrained policy says is worth 1."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def bandit(model: Path, reward: Path, out: Path, numbers: dict[str, Any] | None = None, **trainer: Any) -> PPOTrainer:
    values = TRAINER | {"save_strategy": "no"} | trainer
    questions = [[{"role": "user", "content": f"What is {i} + 1?"}] for i in range(64)]
    tokenizer = load_tokenizer(model)
    return PPOTrainer(
        model=load_causal_lm(model),
        value_model=ppo.load_classifier(reward, tokenizer),
        reward_funcs=[even_first_token],
        args=PPOConfig(output_dir=str(out), report_to="none", disable_tqdm=True, seed=1, beta=1.0, **values),
        train_dataset=Dataset.from_list([{"prompt": question} for question in questions]),
        processing_class=tokenizer,
        **NUMBERS | (numbers or {}),
    )


def trained(*args: Any, **kwargs: Any) -> PPOTrainer:
    trainer = bandit(*args, **kwargs)
    trainer.train()
    return trainer


def logged(trainer: PPOTrainer, key: str) -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


def ragged(lengths: list[int], width: int) -> torch.Tensor:
    return (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()


# The equations.


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
def test_gae_is_the_discounted_sum_of_temporal_differences(gamma: float, lam: float) -> None:
    torch.manual_seed(0)
    lengths = [5, 1, 3]
    mask = ragged(lengths, 5)
    rewards, values = torch.randn(3, 5) * mask, torch.randn(3, 5) * mask
    found = equations.gae(rewards, values, gamma, lam)
    for i, length in enumerate(lengths):
        for t in range(length):
            total = 0.0
            for later in range(t, length):
                after = values[i, later + 1].item() if later + 1 < length else 0.0
                delta = rewards[i, later].item() + gamma * after - values[i, later].item()
                total += (gamma * lam) ** (later - t) * delta
            assert found[i, t].item() == pytest.approx(total, abs=1e-5)
        assert found[i, length:].eq(0).all()


def test_gae_with_lambda_1_is_the_return_less_the_value() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 3.0]])
    torch.testing.assert_close(equations.gae(rewards, values, 1.0, 1.0), torch.tensor([[1.5, 1.0, -1.0]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped"),
    [(1.0, 2.0, False), (1.1, -1.0, False), (1.5, 2.0, True), (0.5, -2.0, True), (0.5, 2.0, False), (1.5, -2.0, False)],
)
def test_the_surrogates_gradient_is_minus_ratio_times_advantage_or_nothing(
    ratio: float, advantage: float, clipped: bool
) -> None:
    logps = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    loss = equations.surrogate(logps, torch.tensor([[-1.0]]), torch.tensor([[advantage]]), 0.2, 0.2)
    loss.sum().backward()
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(0.0 if clipped else -ratio * advantage, rel=1e-5)
    limit = max(0.8, min(1.2, ratio))
    assert loss.item() == pytest.approx(-min(ratio * advantage, limit * advantage), rel=1e-5)


def test_a_value_that_moved_past_the_clip_towards_its_return_gets_no_gradient() -> None:
    values = torch.tensor([0.1, 0.5, -0.5], requires_grad=True)
    loss = equations.value_loss(values, torch.zeros(3), torch.ones(3), 0.2)
    torch.testing.assert_close(loss, torch.tensor([0.5 * 0.9**2, 0.5 * 0.8**2, 0.5 * 1.5**2]))
    loss.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([-0.9, 0.0, -1.5]))


def test_the_last_token_gets_the_score_and_padding_nothing() -> None:
    mask = ragged([3, 1, 4], 4)
    kl = torch.full((3, 4), 0.5)
    found = equations.token_rewards(torch.tensor([1.0, 2.0, -1.0]), kl, mask, 0.1)
    expected = torch.tensor([[-0.05, -0.05, 0.95, 0.0], [1.95, 0.0, 0.0, 0.0], [-0.05, -0.05, -0.05, -1.05]])
    torch.testing.assert_close(found, expected)


def test_whitened_advantages_have_mean_0_and_variance_1_over_the_tokens() -> None:
    torch.manual_seed(0)
    mask = ragged([6, 2, 4], 6)
    x = (3 + 5 * torch.randn(3, 6)) * mask
    marked = x[mask.bool()]
    found = equations.whiten(x, mask, marked.mean(), marked.var(correction=0))
    assert found[mask.bool()].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[mask.bool()].var(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert found[~mask.bool()].eq(0).all()


def test_the_kl_controller_moves_in_proportion_and_at_most_a_fifth() -> None:
    assert equations.adapted(0.1, 6.0, 6.0, 64, 1000) == pytest.approx(0.1)
    assert equations.adapted(0.1, 6.6, 6.0, 100, 1000) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert equations.adapted(0.1, 60.0, 6.0, 100, 1000) == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    assert equations.adapted(0.1, -5.0, 6.0, 100, 1000) == pytest.approx(0.1 * (1 - 0.2 * 0.1))


# The trainer.


def test_the_bandits_optimum_is_found_and_every_parameter_moves(
    chat_model: Path, reward_model: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"max_steps": 28, "num_iterations": 2, "per_device_train_batch_size": 32}
    trainer = trained(chat_model, reward_model, tmp_path, max_completion_length=1, **settings)
    rewards = logged(trainer, "reward")
    assert sum(rewards[:3]) / 3 < 0.7
    assert sum(rewards[-3:]) / 3 > 0.85
    before = load_causal_lm(chat_model).state_dict()
    assert [name for name, p in trainer.model.state_dict().items() if torch.equal(p, before[name])] == []
    assert [p for p in trainer.value_model.parameters() if p.grad is not None] == [], "gradients pile up"
    values = trainer.value_model.classifier.state_dict()
    start = load_file(reward_model / "model.safetensors")
    assert [name for name, p in values.items() if torch.equal(p, start[name])] == []
    assert {key for row in trainer.state.log_history[:2] for key in row} >= LOGGED
    assert logged(trainer, "kl")[0] == pytest.approx(0, abs=1e-5)
    assert [x for x in logged(trainer, "approx_kl")[::2] if abs(x) > 1e-6] == []  # a new rollout's ratio is 1
    assert min(logged(trainer, "approx_kl")[1::2]) > 0


def test_a_huge_kl_coef_keeps_the_policy_at_the_reference(chat_model: Path, reward_model: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 12, "per_device_train_batch_size": 32, "max_completion_length": 1}
    nats = {}
    for kl_coef in (0.0, 1000.0):
        trainer = trained(chat_model, reward_model, tmp_path, {"kl_coef": kl_coef}, **settings)
        tokenizer, reference = load_tokenizer(chat_model), load_causal_lm(chat_model)
        ids = torch.tensor([tokenizer("<|im_start|>assistant\n")["input_ids"]])
        with torch.no_grad():
            now, then = (m(ids).logits[0, -1].log_softmax(-1) for m in (trainer.model.eval(), reference.eval()))
        nats[kl_coef] = (now.exp() * (now - then)).sum().item()
    assert nats[1000.0] < nats[0.0] / 4


def test_accumulation_and_batch_size_share_one_trajectory(chat_model: Path, reward_model: Path, tmp_path: Path) -> None:
    curves = []
    for size, accumulate in ((8, 1), (2, 4)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate}
        trainer = trained(
            chat_model, reward_model, tmp_path, max_steps=4, num_iterations=2, learning_rate=1e-3, **sizes
        )
        curves.append([x for key in ("loss", "value_loss", "grad_norm") for x in logged(trainer, key)])
    assert curves[0] == pytest.approx(curves[1], rel=5e-3, abs=1e-5)


def test_values_are_those_before_each_token_and_blind_to_padding(
    chat_model: Path, reward_model: Path, tmp_path: Path
) -> None:
    trainer = bandit(chat_model, reward_model, tmp_path, max_steps=1)
    pad = trainer.processing_class.pad_token_id
    batch = {
        "prompt_ids": torch.tensor([[pad, 5, 6], [7, 8, 9]]),
        "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        "completion_ids": torch.tensor([[10, 11], [12, pad]]),
        "completion_mask": torch.tensor([[1, 1], [1, 0]]),
    }
    with torch.no_grad():
        found = trainer._values(batch, 1)
        alone = trainer.value_model(torch.tensor([[5, 6, 10, 11]]), torch.ones(1, 4).long())
    torch.testing.assert_close(found[0], alone[0, 1:3], atol=1e-5, rtol=1e-4)


# The stage.


def configured(peft: dict[str, Any] | None = None, trainer: dict[str, Any] | None = None, **changes: Any) -> ppo.Config:
    values = {
        "seed": 1,
        "threads": 2,
        "launch": None,
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
    assert set(_train.RESERVED) <= set(sections[0].reserved)
    assert json.dumps(sections[0].values)
