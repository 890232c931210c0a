"""Answers sampled from a model: batched, seeded, the same for the same model, prompts and thread count."""

from collections.abc import Callable, Sequence
from typing import Any

from tasks._config import Strict


class Sampling(Strict):
    """How answers are drawn."""

    samples_per_prompt: int
    """Answers to each prompt."""
    temperature: float
    """Of the softmax; 0 takes the likeliest token, and then one answer a prompt is all there is."""
    top_p: float
    """Share of the probability mass that may be drawn from, 0 to 1."""
    max_new_tokens: int
    """Longest answer, in tokens."""
    batch_size: int
    """Answers written at once."""


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[dict[str, str]]],
    sampling: Sampling,
    chat_template_args: dict[str, Any],
    seed: int,
    report: Callable[[int, int], None],
) -> list[list[str]]:
    """Answer every prompt `samples_per_prompt` times through the chat template.

    Args:
        model: a causal language model, on its device.
        tokenizer: its tokenizer, with a pad token.
        prompts: conversations that end with the user.
        sampling: how.
        chat_template_args: passed to the chat template, e.g. `{"enable_thinking": False}`.
        seed: of torch; equal seeds draw equal answers.
        report: called with prompts done and prompts in all.

    Returns:
        For each prompt its answers as text, special tokens left out, stripped at both ends.
    """
    import torch

    torch.manual_seed(seed)
    model.eval()
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    rendered = {"tokenize": False, "add_generation_prompt": True, **chat_template_args}
    texts = [tokenizer.apply_chat_template(prompt, **rendered) for prompt in prompts]
    size = max(1, sampling.batch_size // sampling.samples_per_prompt)
    answers: list[list[str]] = []
    for start in range(0, len(texts), size):
        batch = tokenizer(
            texts[start : start + size], return_tensors="pt", padding=True, padding_side="left",
            add_special_tokens=False, return_token_type_ids=False,
        ).to(model.device)  # fmt: skip
        with torch.no_grad():
            tokens = model.generate(
                **batch,
                **drawn,
                num_return_sequences=sampling.samples_per_prompt,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        new = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        stripped = [text.strip() for text in new]
        count = sampling.samples_per_prompt
        answers += [stripped[i : i + count] for i in range(0, len(stripped), count)]
        report(len(answers), len(texts))
    return answers
