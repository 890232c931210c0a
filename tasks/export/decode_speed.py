"""Decoding speed of a PyTorch model and of its exported forms, measured in turns on this machine."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


class _Clock:
    """A `generate` streamer that notes when each token came. It is called with the prompt first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _tokens: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def decode_speeds(
    pytorch: Callable[..., object], forms: Mapping[str, Callable[[], Iterable[int]]], *, repeats: int
) -> dict[str, float]:
    """Measure decoded tokens per second at batch 1, the prompt's own time left out.

    The engines take turns, so that whatever else the machine does falls on all of them alike.

    Args:
        pytorch: answers one prompt; its parameter `streamer` is told of each token.
        forms: name of each form to what yields the tokens of its answer to the same prompt, at least 2.
        repeats: measured turns; one more goes before them, unmeasured.

    Returns:
        `{"pytorch": median, form: median, …}` over the turns.
    """
    rates: dict[str, list[float]] = {"pytorch": [], **{form: [] for form in forms}}
    for _ in range(repeats + 1):
        clock = _Clock()
        pytorch(streamer=clock)
        rates["pytorch"].append(_rate(clock.times[1:]))
        for form, answer in forms.items():
            rates[form].append(_rate([time.perf_counter() for _ in answer()]))
    return {name: round(statistics.median(values[1:]), 2) for name, values in rates.items()}


def _rate(times: Sequence[float]) -> float:
    """Return tokens per second after the first token, which waits for the prompt."""
    return (len(times) - 1) / (times[-1] - times[0])
