"""Drawing answers: what `generate` writes where it decodes greedily, the same distribution where it does not."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, PreTrainedModel

from tasks.sampling import generate
from tasks.stage.errors import DataError
from tests.support.tiny_decoders import DECODERS, OTHERS, SIZES, drawn, generated, made, settings

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [[5, 6, 7, 8, 9], [3], [4, 4, 4], [5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 2], [3], [8, 1, 1]]
"""Of several lengths, two of them twice."""


@pytest.mark.parametrize("kind", DECODERS)
def test_greedy_answers_are_those_of_generate(kind: str) -> None:
    model = made(kind, DECODERS[kind])
    whole = generated(model, PROMPTS, settings(do_sample=False, eos_token_id=None))
    assert len({tuple(answer) for answer in whole}) > 3, "answers that are all alike would show nothing"
    common = [token for token, _ in Counter(token for answer in whole for token in answer).most_common()]
    seen = set()
    for ends in (common[:1], common[1:3], common[-1:]):
        config = settings(do_sample=False, eos_token_id=ends)
        expected = generated(model, PROMPTS, config)
        assert drawn(model, PROMPTS, config).ids == expected
        seen |= {len(answer) for answer in expected}
    assert len(seen) > 4, "answers should end at different tokens, so that rows leave the batch"


def exact(model: Any, prompt: list[int], temperature: float) -> torch.Tensor:
    """Probabilities of the next token, by a plain forward pass."""
    with torch.no_grad():
        return (model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1)


def fits(counts: Counter[Any], probabilities: dict[Any, float], total: int) -> bool:
    """Whether the counts may come from the probabilities (chi-square, 1 in 1000), the rare ones taken together."""
    assert set(counts) <= {key for key, p in probabilities.items() if p > 0}, "what cannot be was drawn"
    common = [key for key, p in probabilities.items() if p * total >= 5]
    observed, expected = [counts[key] for key in common], [probabilities[key] * total for key in common]
    if total - sum(expected) > 1e-6 * total:
        observed, expected = [*observed, total - sum(observed)], [*expected, total - sum(expected)]
    return bool(chisquare(observed, expected).pvalue > 1e-3)


@pytest.mark.parametrize(
    "cut", [{}, {"temperature": 1.7}, {"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.6, "temperature": 1.3}], ids=str
)
def test_first_tokens_are_as_frequent_as_they_should_be(cut: dict[str, float]) -> None:
    model, total = made("llama", SIZES), 4000
    config = settings(max_new_tokens=1, **cut)
    p = exact(model, [5, 6, 7], config.temperature)
    if config.top_k:
        p[p < p.topk(config.top_k).values[-1]] = 0
    if config.top_p < 1:
        order = p.argsort(descending=True)
        before = p[order].cumsum(0) - p[order]
        p[order[before >= config.top_p]] = 0
    if config.min_p:
        p[p < config.min_p * p.max()] = 0
    assert (p == 0).any() == bool(set(cut) - {"temperature"})
    probabilities = dict(enumerate((p / p.sum()).tolist()))
    found = drawn(model, [[5, 6, 7]] * total, config, seed=3)
    assert fits(Counter(answer[0] for answer in found.ids), probabilities, total)


def test_whole_answers_are_as_frequent_as_they_should_be() -> None:
    model, total, prompts = made("llama", SIZES), 4000, [[5, 6, 7], [3]]
    found = drawn(model, prompts * total, settings(max_new_tokens=3, eos_token_id=[7, 2]), seed=1)

    def grown(prompt: list[int], answer: tuple[int, ...], p: float) -> dict[tuple[int, ...], float]:
        if answer and (answer[-1] in (7, 2) or len(answer) == 3):
            return {answer: p}
        then = enumerate(exact(model, prompt + list(answer), 1.0).tolist())
        return {key: q for token, share in then for key, q in grown(prompt, (*answer, token), p * share).items()}

    for i, prompt in enumerate(prompts):
        answers = Counter(tuple(answer) for answer in found.ids[i::2])
        assert {len(answer) for answer in answers} == {1, 2, 3}
        assert fits(answers, grown(prompt, (), 1.0), total)


def test_the_log_probabilities_are_those_of_a_forward_pass() -> None:
    model = made("gpt2", DECODERS["gpt2"])
    found = drawn(model, PROMPTS, settings(temperature=1.5, top_k=5))
    assert found.logps.shape == (len(PROMPTS), max(map(len, found.ids)))
    for prompt, answer, logps in zip(PROMPTS, found.ids, found.logps, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1] / 1.5
        expected = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(logps[: len(answer)], expected, atol=1e-5, rtol=1e-5)
        assert logps[len(answer) :].eq(0).all()


def test_equal_seeds_draw_equal_answers_and_equal_prompts_different_ones() -> None:
    model = made("qwen3", SIZES)
    first, again, other = (drawn(model, [[5, 6]] * 8, settings(), seed).ids for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({tuple(answer) for answer in first}) > 4


def test_ended_rows_leave_the_batch_and_equal_prompts_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, forward, sizes = made("llama", SIZES), generate._forward, list[int]()

    def counted(inner: PreTrainedModel, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(ids))
        return forward(inner, ids, *rest)

    monkeypatch.setattr(generate, "_forward", counted)
    answers = drawn(model, [[5, 6, 7]] * 32, settings(eos_token_id=[1, 2, 3, 4])).ids
    assert sizes[0] == 1
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    assert sizes[-1] <= 8
    assert len(sizes) == max(map(len, answers))


def test_what_the_loop_does_not_know_is_left_to_generate() -> None:
    for kind, sizes in OTHERS.items():
        assert generate.plan(made(kind, sizes), settings()) is None, kind
    model = made("llama", SIZES)
    assert generate.plan(model, settings(repetition_penalty=1.0, min_p=None, cache_implementation=None))
    for unknown in ({"repetition_penalty": 1.2}, {"num_beams": 2}, {"suppress_tokens": [3]}, {"min_new_tokens": 4}):
        assert generate.plan(model, settings(**unknown)) is None, unknown
    assert generate.plan(model, GenerationConfig(max_new_tokens=4, pad_token_id=0, do_sample=True)) is None
    model.generation_config.no_repeat_ngram_size = 3  # what the call leaves open is taken from the model's own
    assert generate.plan(model, settings()) is None
    model.generation_config.no_repeat_ngram_size = None
    model.gradient_checkpointing_enable()
    assert generate.plan(model, settings()) is not None
    assert generate.plan(model.train(), settings()) is None


def test_a_lora_adapter_takes_part_and_a_soft_prompt_is_left_to_peft() -> None:
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    lora = get_peft_model(made("llama", SIZES), LoraConfig(r=4, init_lora_weights=False, target_modules="all-linear"))
    greedy = settings(do_sample=False)
    assert drawn(lora.eval(), PROMPTS, greedy).ids == generated(lora, PROMPTS, greedy)
    assert drawn(lora, PROMPTS, greedy).ids != drawn(made("llama", SIZES), PROMPTS, greedy).ids
    soft = get_peft_model(made("llama", SIZES), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert generate.plan(soft, settings()) is None


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (0.6, 3), (1 - 2**-24, 3)])
def test_no_random_number_draws_what_cannot_be(monkeypatch: pytest.MonkeyPatch, number: float, token: int) -> None:
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, number))
    for total in (1.0, 1 + 2**-22, 1 - 2**-22):  # sums of float32 miss 1
        shares = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]) * total
        assert generate._draw_indices(shares).tolist() == [token]


def test_a_model_that_diverged_says_so() -> None:
    model = made("llama", SIZES)
    model.lm_head.weight.data.fill_(math.nan)
    with pytest.raises(DataError, match=r"probabilities are no numbers; .* lower trainer.learning_rate"):
        drawn(model, PROMPTS, settings())
