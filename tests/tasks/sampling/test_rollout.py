"""Rollouts of the RL trainers: drawn by the fast loop where it is valid and by TRL where not; scored as TRL scores."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.rl.grpo import DynamicGRPOTrainer
from tasks.sampling import rollout as rollouts
from tests.conftest import TRAINER
from tests.support.tiny_decoders import apart, rollout

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7], [10]]


def length(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(turns[0]["content"])) for turns in completions]


def trainer(model: Path, out: Path, **changes: Any) -> DynamicGRPOTrainer:
    """GRPO on two questions; its model answers with more than one token."""
    values: dict[str, Any] = {k: v for k, v in TRAINER.items() if k not in ("max_length", "per_device_eval_batch_size")}
    values |= {"num_generations": 4, "max_completion_length": 6, "steps_per_generation": 1, "beta": 0.1, "max_steps": 2}
    values |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 1}
    return DynamicGRPOTrainer(
        model=apart(load_causal_lm(model)),
        reward_funcs=[length],
        args=GRPOConfig(output_dir=str(out), **values | changes),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in ("1?", "1 + 2?")]),
        processing_class=load_tokenizer(model),
        resampling_rounds=0,
    )


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("called")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_answers_are_drawn_by_the_loop_and_the_model_is_left_as_it_was(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    grpo = trainer(chat_model, tmp_path, gradient_checkpointing=checkpointing)
    grpo.model.train()
    if checkpointing:
        grpo.model.gradient_checkpointing_enable()
    before = grpo.model.config.to_dict()
    monkeypatch.setattr(grpo.model, "generate", refuse)
    ids, logps = grpo._generate_single_turn(PROMPTS, None, {}, 4)
    assert logps is None
    assert len(ids) == len(PROMPTS)
    assert all(0 < len(answer) <= 6 for answer in ids)
    assert grpo.model.training
    assert grpo.model.is_gradient_checkpointing is checkpointing
    assert grpo.model.config.to_dict() == before
    grpo.train()
    assert grpo.state.global_step == 2


@pytest.mark.parametrize("settings", [{"repetition_penalty": 1.3}, {"generation_kwargs": {"no_repeat_ngram_size": 2}}])
def test_settings_that_only_generate_knows_are_left_to_it(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    grpo = trainer(chat_model, tmp_path, **settings)
    monkeypatch.setattr(rollouts, "draw", refuse)
    grpo.train()
    assert grpo.state.global_step == 2


def test_other_engines_images_and_sharded_models_are_left_to_trl(chat_model: Path, tmp_path: Path) -> None:
    grpo = trainer(chat_model, tmp_path)
    assert grpo.draw_answers(PROMPTS, None, {}) is not None
    assert grpo.draw_answers(PROMPTS, ["an image"], {}) is None
    assert grpo.draw_answers(PROMPTS, None, {"token_type_ids": [[0]]}) is None
    for engine in ("use_vllm", "use_transformers_continuous_batching", "is_deepspeed_enabled", "is_fsdp_enabled"):
        setattr(grpo, engine, True)
        assert grpo.draw_answers(PROMPTS, None, {}) is None, engine
        setattr(grpo, engine, False)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_tokens_are_scored_as_trl_scores_them(chat_model: Path, tmp_path: Path, batch_size: int | None) -> None:
    grpo = trainer(chat_model, tmp_path, temperature=0.7)
    ids, seen = rollout([9, 3, 5, 4, 4, 2, 7, 3], [2, 9, 1, 1, 6, 3, 2, 8])
    seen[4, 9:] = 0  # an answer that was cut off and does not count
    arguments = (grpo.model, ids, seen, 9, batch_size, True)
    with torch.no_grad():
        found = grpo._get_per_token_logps_and_entropies(*arguments)
        expected = GRPOTrainer._get_per_token_logps_and_entropies(grpo, *arguments)
    assert found[0].shape == (8, 9)
    assert found[0][4].eq(0).all()
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours * seen[:, 9:], theirs * seen[:, 9:], atol=1e-4, rtol=1e-4)
