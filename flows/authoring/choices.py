"""Numbers of a recipe, each with its reason: device, weights that learn, length, batch, steps, learning rate."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from flows.authoring.model import Model
from flows.authoring.rows import Lengths
from tasks.check.memory import estimate

ADAPTED = 0.02
"""Share of a model's parameters that a LoRA of rank 16 on every linear layer comes to, about."""
SAFE = 0.7
"""Share of the memory that an estimate may fill: the rest is what it leaves out."""
SEQUENCES = 32
"""Rows of an optimizer step, where there are many."""
CPU_STEPS, GPU_STEPS = 200, 3000
"""Most optimizer steps of a stage: on a CPU each takes seconds."""
CPU_CONTEXT, GPU_CONTEXT = 1024, 4096
"""Most tokens of a row that is learnt, where the rows are longer."""


@dataclass(frozen=True)
class Machine:
    """What there is to train on."""

    device: str
    """`cuda` or `cpu`."""
    memory: int
    """Bytes that one stage may fill."""
    threads: int
    words: str
    """The machine, in words."""

    @property
    def gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"


@dataclass(frozen=True)
class Training:
    """How a stage trains, and why so."""

    full: bool
    """Whether all weights learn; else a LoRA."""
    why_weights: str
    length: int
    why_length: str
    batch: int
    """Rows at a time."""
    accumulation: int
    why_batch: str
    steps: int
    why_steps: str
    max_left_out: float
    max_cut: float
    checkpointing: bool


def machine() -> Machine:
    """Look at this machine: one GPU if torch finds one, else the CPU and the memory that is free now."""
    import torch

    cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return Machine("cuda", card.total_memory, min(8, cores), f"{card.name}, {_gigabytes(card.total_memory)}")
    free = _free()
    return Machine("cpu", free, min(8, cores), f"{cores} CPU cores, {_gigabytes(free)} of memory free, no GPU")


def _free() -> int:
    for line in (
        Path("/proc/meminfo").read_text(encoding="utf-8").splitlines() if Path("/proc/meminfo").exists() else ()
    ):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // 2


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size > 2**27 else f"{size / 2**20:.0f} MiB"


def training(model: Model, lengths: Lengths, here: Machine, *, pairs: bool, reference: bool) -> Training:
    """Choose how a stage trains.

    Args:
        model: the base model.
        lengths: of the rows that it learns from.
        here: the machine.
        pairs: whether each row has two replies, which are read side by side.
        reference: whether a second copy of the model is in memory where all weights learn.
    """
    length, why_length = longest_row(lengths, model, here)
    count = model.parameters or 12 * model.layers * model.hidden**2
    dtype = "bfloat16" if here.gpu else "float32"

    def fits(full: bool, batch: int, checkpointing: bool) -> tuple[bool, int]:
        total = estimate(
            count, count if full else round(ADAPTED * count), model.layers, model.hidden, model.vocabulary,
            batch * (2 if pairs else 1), length, dtype, checkpointing, 2 if full and reference else 1,
        ).total  # fmt: skip
        return total <= SAFE * here.memory, total

    full = fits(True, 1, here.gpu)[0]
    checkpointing = here.gpu or not fits(full, 2, False)[0]
    wanted = min(SEQUENCES, max(4, 2 ** round(math.log2(max(1, lengths.rows / 16)))))
    batch = next((size for size in (32, 16, 8, 4, 2) if size <= wanted and fits(full, size, checkpointing)[0]), 1)
    need = fits(full, batch, checkpointing)[1]
    epochs = 3 if lengths.rows < 5_000 else 2 if lengths.rows < 50_000 else 1
    if pairs or reference:  # preferences are soon learnt by heart
        epochs = max(1, epochs - 1)
    steps = max(1, math.ceil(lengths.rows * epochs / wanted))
    most = GPU_STEPS if here.gpu else CPU_STEPS
    seen = f"{epochs} times {lengths.rows} rows, {wanted} a step"
    cut, left = lengths.share(lengths.whole, length), lengths.share(lengths.prompts, length - 2)
    kept = f"of {_gigabytes(here.memory)}"
    if not full:
        kept += f"; all weights would take {_gigabytes(fits(True, 1, checkpointing)[1])}"
    return Training(
        full=full,
        why_weights=f"{_gigabytes(need)} {kept}",
        length=length,
        why_length=why_length,
        batch=batch,
        accumulation=max(1, wanted // batch),
        why_batch=f"rows at a time, {_gigabytes(need)} with weights and optimizer",
        steps=min(steps, most),
        why_steps=seen if steps <= most else f"at most {most} on a {'GPU' if here.gpu else 'CPU'}; {seen}, are {steps}",
        max_left_out=max(0.01, _up(left)),
        max_cut=max(0.05, _up(cut)),
        checkpointing=checkpointing,
    )


def longest_row(lengths: Lengths, model: Model, here: Machine) -> tuple[int, str]:
    """Choose the tokens of the longest row: the 99th percentile, on a multiple of 32, as far as it goes."""
    percentile = lengths.whole[min(len(lengths.whole) - 1, math.ceil(0.99 * len(lengths.whole)))]
    wanted = max(32, 32 * math.ceil((percentile + 2) / 32))
    most = min(model.context, GPU_CONTEXT if here.gpu else CPU_CONTEXT)
    said = f"tokens; the 99th percentile of the rows is {percentile}"
    if wanted <= most:
        return wanted, said
    return most, f"{said}, and {'the context is' if most == model.context else 'the most here is'} {most}"


def _up(share: float) -> float:
    """Round a share up, with room for the rows that were not looked at."""
    return min(1.0, math.ceil(120 * share) / 100)


def reply_tokens(lengths: Lengths, model: Model, *, most: int = 512) -> int:
    """Choose the tokens of the longest answer: a quarter more than the 99th percentile, on a multiple of 8."""
    percentile = lengths.replies[min(len(lengths.replies) - 1, math.ceil(0.99 * len(lengths.replies)))]
    return min(most, model.context // 2, max(8, 8 * math.ceil(1.25 * percentile / 8)))


def learning_rate(method: str, model: Model, *, full: bool) -> float:
    """Choose a learning rate: published ones for a billion parameters, higher for smaller models and for LoRA.

    Sources: TRL's documentation for SFT, DPO and KTO; "LoRA Without Regret" (Schulman et al., 2025) for ten times as
    much with LoRA; for models of about a million parameters, the recipe `tiny`; steps between them.
    """
    usual = {"sft": 2e-5, "adapt": 2e-5, "distill": 5e-5, "prune": 2e-5, "reward": 1e-5, "rejection": 1e-5}
    base = usual.get(method, 1e-6)
    count = model.parameters or 10**9
    scale = 1 if count > 5 * 10**8 else 3 if count > 5 * 10**7 else 20 if count > 5 * 10**6 else 100
    return base * scale * (1 if full and method != "adapt" else 10)
