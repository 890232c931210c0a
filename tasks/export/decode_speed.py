"""Decoding speed of a PyTorch model and of its exported forms, measured in turns on this machine."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.export import genai
from tasks.export.reference import Reference


class _Clock:
    """A `generate` streamer that notes when each token came. It is called with the prompt first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _tokens: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def decode_speeds(
    reference: Reference, forms: Mapping[str, Any], ids: Sequence[int], *, new_tokens: int, repeats: int
) -> dict[str, float]:
    """Measure decoded tokens per second at batch 1, the prompt's own time left out.

    The engines take turns, so that whatever else the machine does falls on all of them alike.

    Args:
        reference: the PyTorch model.
        forms: name of each form to its model, from `genai.load`.
        ids: the prompt.
        new_tokens: tokens of each answer, at least 2.
        repeats: measured turns; one more goes before them, unmeasured.

    Returns:
        `{"pytorch": median, form: median, …}` over the turns.
    """
    rates: dict[str, list[float]] = {"pytorch": [], **{form: [] for form in forms}}
    for _ in range(repeats + 1):
        clock = _Clock()
        reference.generate(ids, max_new_tokens=new_tokens, min_new_tokens=new_tokens, streamer=clock)
        rates["pytorch"].append(_rate(clock.times[1:]))
        for form, model in forms.items():
            tokens = genai.generate(model, ids, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
            rates[form].append(_rate([time.perf_counter() for _ in tokens]))
    return {name: round(statistics.median(values[1:]), 2) for name, values in rates.items()}


def _rate(times: Sequence[float]) -> float:
    """Return tokens per second after the first token, which waits for the prompt."""
    return (len(times) - 1) / (times[-1] - times[0])
