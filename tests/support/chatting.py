"""A question for the small chat model, and its answer by the library alone."""

from pathlib import Path

from tasks.export import genai

QUESTION = "What is 12 + 345?"


def greedy(folder: Path, messages: list[dict[str, str]], tokens: int) -> str:
    """The answer as the tokenizer decodes it in one go."""
    import numpy as np

    model, tokenizer = genai.load(folder)
    ids = genai.encode(tokenizer, genai.render(tokenizer, messages))
    answer = list(genai.generate(model, ids, max_new_tokens=tokens))
    return str(tokenizer.decode(np.asarray(answer, dtype=np.int32)))
