"""Sampled answers: the same by the fast loop and by `generate`, and their tokens counted."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.sampling import generate
from tasks.sampling.sample import SamplingSettings, sample
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError
from tests.support.tiny_decoders import apart, drawn, settings

pytestmark = pytest.mark.usefixtures("one_thread")


def sampling(**changes: Any) -> SamplingSettings:
    values = {"samples_per_prompt": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 12, "batch_size": 4}
    return parse(Path("params/test.yaml"), values | changes, SamplingSettings)


def test_samples_are_the_same_by_either_way_and_counted(chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = apart(load_causal_lm(chat_model)), load_tokenizer(chat_model)
    prompts = [[{"role": "user", "content": f"What is {i} + {'1' * i}?"}] for i in range(1, 7)]
    ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
    answers = drawn(model, ids, settings(do_sample=False, max_new_tokens=12)).ids
    written = Counter(token for answer in answers for token in set(answer))
    tokenizer.eos_token_id = next(token for token, rows in written.items() if rows < len(answers))  # ends some early
    fast = sample(model, tokenizer, prompts, sampling(), {}, 0, lambda *_: None)
    monkeypatch.setattr(generate, "plan", lambda *_: None)
    assert sample(model, tokenizer, prompts, sampling(), {}, 0, lambda *_: None) == fast
    assert len({answer.tokens for (answer,) in fast}) > 1


def test_several_answers_at_temperature_0_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"samples_per_prompt is 2, but temperature 0 gives one answer only"):
        sampling(samples_per_prompt=2)


def test_prompts_that_leave_no_room_are_named(chat_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = load_causal_lm(chat_model), load_tokenizer(chat_model)
    prompts = [[{"role": "user", "content": "7" * digits}] for digits in (3, 200, 245)]
    sample(model, tokenizer, prompts[:2], sampling(max_new_tokens=8), {}, 0, lambda *_: None)
    assert "leave no room" not in caplog.text
    sample(model, tokenizer, prompts, sampling(max_new_tokens=8), {}, 0, lambda *_: None)
    assert "warning: 1 of 3 prompts (longest " in caplog.text
    assert "leave no room for 8 new tokens in the context of 256" in caplog.text
