"""The PPO trainer: on a bandit, and what it computes on a rollout. The equations: `test_ppo_math.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from tasks import ppo
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.rl import value
from tasks.rl.ppo import PPOConfig, PPOTrainer
from tasks.rl.value import RewardModel
from tasks.sampling import packing, rollout
from tests.support.ppo import LOGGED, NUMBERS, TRAINER

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTIONS = [f"What is {i} + 1?" for i in range(64)]


def even_first_token(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A bandit: 1 for a first token of even number, else 0. Half of what an untrained policy says is worth 1."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def bandit(
    model: Path,
    reward: Path,
    out: Path,
    numbers: dict[str, Any] | None = None,
    questions: Sequence[str] = QUESTIONS,
    **trainer: Any,
) -> PPOTrainer:
    values = TRAINER | {"save_strategy": "no"} | trainer
    tokenizer = load_tokenizer(model)
    return PPOTrainer(
        model=load_causal_lm(model),
        value_model=ppo.load_classifier(reward, tokenizer),
        reward_funcs=[even_first_token],
        args=PPOConfig(output_dir=str(out), report_to="none", disable_tqdm=True, seed=1, beta=1.0, **values),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in questions]),
        processing_class=tokenizer,
        **NUMBERS | (numbers or {}),
    )


def trained(*args: Any, **kwargs: Any) -> PPOTrainer:
    trainer = bandit(*args, **kwargs)
    trainer.train()
    return trainer


def logged(trainer: PPOTrainer, key: str) -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


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


def test_rewards_are_those_of_transformers(chat_model: Path, reward_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    classifier = ppo.load_classifier(reward_model, tokenizer)
    texts = ["What is 1 + 1?<|im_end|>\n", "2<|im_end|>", "Happy to help! The answer is 357.<|im_end|>", "1 2 3"]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", return_token_type_ids=False)
    with torch.inference_mode():
        found, expected = RewardModel(classifier)(**batch).logits, classifier(**batch).logits
    assert found.unique().numel() == len(texts)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_what_makes_it_faster_changes_no_trajectory(
    chat_model: Path, reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold, folds = packing.fold, list[packing.Folded]()

    def noted(*batch: torch.Tensor) -> packing.Folded | None:
        folds.extend([found] if (found := fold(*batch)) else [])
        return found

    def never(*_: torch.Tensor) -> None:
        return None

    def curves(folding: Any, **trainer: Any) -> list[float]:
        for module in (rollout, value):
            monkeypatch.setattr(module, "fold", folding)
        sums = [f"What is {'1 + ' * (i % 9)}1?" for i in range(64)]
        settings = {"max_steps": 4, "num_iterations": 2, "learning_rate": 1e-3} | trainer
        done = trained(chat_model, reward_model, tmp_path, questions=sums, **settings)
        return [x for key in ("reward", "kl", "loss", "value_loss", "grad_norm") for x in logged(done, key)]

    fast = curves(noted)
    assert len(folds) > 8, "policy, reference and value model should have read folded batches"
    assert curves(never) == pytest.approx(fast, rel=5e-3, abs=1e-5)
    padded = curves(noted, pad_to_multiple_of=1)  # log-probabilities by a forward pass and not from the drawing
    assert padded == pytest.approx(fast, rel=5e-3, abs=1e-5)
