"""Seconds of one optimizer step over the tiny model's matrices: `torch.optim.Muon` against `tasks/base_models/muon.py`.

    python -m bench.muon

Prints both medians, the ratio, and how far the two updates are apart (one is bfloat16 inside, so not zero).
"""

import statistics
import time

import torch

from tasks.base_models.muon import Muon

SHAPES = [(128, 128)] * 16 + [(384, 128)] * 8 + [(128, 384)] * 4
REPEATS = 30


def matrices() -> list[torch.nn.Parameter]:
    """Make the tiny model's 28 matrices with a gradient each, the same every time."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in SHAPES]
    for p in weights:
        p.grad = torch.randn(p.shape)
    return weights


def main() -> None:
    """Interleave the two, so that a change of the machine's speed meets both."""
    ours, theirs = matrices(), matrices()
    optimizers = {
        "torch": torch.optim.Muon(theirs, lr=0.02, weight_decay=0.01),
        "ours": Muon(ours, lr=0.02, weight_decay=0.01),
    }
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for repeat in range(REPEATS):
        for name, optimizer in optimizers.items():
            start = time.perf_counter()
            optimizer.step()
            seconds[name].append(time.perf_counter() - start)
        if repeat == 0:
            apart = max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)) / 0.02
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"torch.optim.Muon  {medians['torch'] * 1e3:7.1f} ms a step")
    print(f"tasks/base_models/muon.py    {medians['ours'] * 1e3:7.1f} ms a step")
    print(
        f"ratio             {medians['torch'] / medians['ours']:7.2f} x   (first update at most {apart:.3f} lr apart)"
    )


if __name__ == "__main__":
    main()
