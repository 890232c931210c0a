"""Memory and disk that the stages of a recipe take, against this machine, and the batch or the number that would fit.

Memory is that of one training step (`tasks/check/memory.py`), at the recipe's batch and length; stages that only
answer take less. Disk is what a whole run writes: models, their exports, DVC's copy of each, and checkpoints.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tasks.base import Config as BaseConfig
from tasks.base import ScratchModel
from tasks.check import model_facts
from tasks.check.files import Recipe
from tasks.check.memory import Bytes, estimate
from tasks.check.model_facts import Facts
from tasks.stage import recipe
from tasks.stage.trainer_config import AdapterConfig, TrlConfig
from tasks.training import fates

GIB = 2**30
DTYPE = "float32"
"""Data type in which stages load the weights that they train, and write them."""
WITH_REFERENCE = ("dpo", "grpo", "online_dpo", "ppo", "kto", "rlaif")
"""Stage modules that hold a second model, unless an adapter is trained."""
FORMS = {"fp32": 4.0, "int8": 1.2, "int4": 0.8}
"""Bytes for each parameter of an exported form, scales and embeddings counted."""
STORED = 2
"""Copies of each artifact: the folder, and DVC's cache."""
UNKNOWN_ADAPTER = 0.02
"""Share of the parameters that an adapter has, where the model's matrices are not known."""


class Step(NamedTuple):
    """One training step of a recipe file."""

    file: str
    key: str
    """Key of the batch size."""
    batch: int
    sequences: int
    """Sequences of one row: two for a pair."""
    length: int
    checkpointing: bool
    trained: int
    copies: int
    device: str
    """`cpu` where the file says so."""
    bounded: bool = True
    """Whether the recipe bounds the length; without that it is the model's whole context, which few rows have."""

    def bytes(self, facts: Facts, batch: int) -> Bytes:
        """Estimate its memory at a batch."""
        return estimate(
            facts.parameters, self.trained, facts.layers, facts.hidden, facts.vocabulary, batch * self.sequences,
            self.length, DTYPE, self.checkpointing, self.copies,
        )  # fmt: skip


def check(under_check: Recipe) -> Iterator[str]:
    """Name the stages that no memory of this machine holds, and a disk that is too small."""
    facts = model_facts.find(under_check)
    if facts is None or not facts.parameters:
        return
    for step in steps(under_check, facts):
        most = _memory(step).total
        fault = _too_large(under_check, facts, step, most)
        if fault is not None and step.bounded:
            yield f"{fault}, and this machine has {most / GIB:.1f}; {_fitting(facts, step, most)}"
    yield from _disk(under_check, facts)


def notices(under_check: Recipe) -> Iterator[str]:
    """Name the stages that this machine holds, and not beside what runs on it now, or only if their rows are short."""
    facts = model_facts.find(under_check)
    if facts is None or not facts.parameters:
        return
    for step in steps(under_check, facts):
        memory = _memory(step)
        fault = _too_large(under_check, facts, step, memory.available)
        if fault is not None and not step.bounded:
            yield (
                f"{fault}, which this machine has not; trainer.max_length is null, so that rows may be as long as the "
                f"model's context: set it, or see that no row is near {step.length} tokens"
            )
        elif fault is not None and _too_large(under_check, facts, step, memory.total) is None:
            free = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} are free now"
            yield f"{fault}, and {free}; end other programs, or {_fitting(facts, step, memory.available)}"


def steps(under_check: Recipe, facts: Facts) -> Iterator[Step]:
    """Yield the training step of each file that trains the base model's weights, or an adapter of them."""
    base = under_check.of("base.yaml", BaseConfig)
    if base is not None and isinstance(base.source, ScratchModel):
        scratch = base.source.scratch
        yield Step(
            "base.yaml", "source.scratch.batch_size", scratch.batch_size, 1, scratch.block_size, False,
            facts.parameters, 1, "cpu",
        )  # fmt: skip
    retrievers = {f"{m.name}.yaml" for m in under_check.graph.models.values() if m.method == recipe.RETRIEVER}
    for file, module, config in under_check.trained():
        values = fates.settings(config.trainer, module.trainer_class())
        batch = values.get("per_device_train_batch_size")
        if file in retrievers or not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
            continue
        pairs = getattr(module, "row_rule", None) in (fates.pairs, fates.compared)
        trained = _trained(config, facts)
        referred = under_check.readers[file] in WITH_REFERENCE and trained == facts.parameters
        yield Step(
            file, "trainer.per_device_train_batch_size", batch, 2 if pairs else 1, _length(values, facts),
            bool(values.get("gradient_checkpointing")), trained, 2 if referred else 1,
            "cpu" if values.get("use_cpu") else "cuda", _bounded(values),
        )  # fmt: skip


def _bounded(values: dict[str, Any]) -> bool:
    """Say whether the settings bound the length of a sequence."""
    return isinstance(values.get("max_completion_length"), int) or bool(values.get("max_length"))


def _length(values: dict[str, Any], facts: Facts) -> int:
    """Longest sequence in tokens: of an answer that is drawn, twice its length, for its prompt."""
    answer = values.get("max_completion_length")
    asked = 2 * answer if isinstance(answer, int) else values.get("max_length") or facts.context or 1
    return int(min(asked, facts.context) if facts.context else asked)


def _trained(config: TrlConfig, facts: Facts) -> int:
    """Count the parameters that get a gradient."""
    peft = config.peft if isinstance(config, AdapterConfig) else None
    if peft is None:
        return facts.parameters
    rank, targets = peft.get("r", 8), peft.get("target_modules")
    if not isinstance(rank, int) or not isinstance(targets, list) or not facts.shapes:
        return round(UNKNOWN_ADAPTER * facts.parameters)
    named = (s for name, s in facts.shapes.items() if name.rpartition(".")[2] in targets and len(s) == 2)
    return sum(rank * (shape[0] + shape[1]) for shape in named)


class Memory(NamedTuple):
    """Memory of the device that a stage runs on, in bytes."""

    total: int
    available: int


def _memory(step: Step) -> Memory:
    if step.device != "cpu":
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            return Memory(total, free)
    found = psutil.virtual_memory()
    return Memory(found.total, found.available)


def _too_large(under_check: Recipe, facts: Facts, step: Step, room: int) -> str | None:
    """Say how much a step takes where that is more than there is room for."""
    need = step.bytes(facts, step.batch)
    if need.total <= room:
        return None
    parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in zip(Bytes._fields[:4], need[:4], strict=True))
    return (
        f"{under_check.folder / step.file}: {step.key} is {step.batch}: with up to {step.length} tokens a sequence a "
        f"step takes about {need.total / GIB:.1f} GiB ({parts})"
    )


def _fitting(facts: Facts, step: Step, room: int) -> str:
    """Say which batch would fit."""
    fixed = step.bytes(facts, 0).total
    each = step.bytes(facts, 1).total - fixed
    fits = (room - fixed) // each if each else 0
    if fits >= 1:
        more = (
            "" if step.checkpointing or not step.key.startswith("trainer") else ", or set gradient_checkpointing: true"
        )
        return f"a batch of {fits} would fit{more} (gradient_accumulation_steps makes up for a smaller one)"
    if step.trained == facts.parameters and step.key.startswith("trainer"):
        return "no batch would fit; train an adapter (`peft:` with LoRA), shorten max_length, or take a smaller model"
    return "no batch would fit; shorten the sequences, or take a smaller model"


def _disk(under_check: Recipe, facts: Facts) -> Iterator[str]:
    """Say when a run writes more than there is room for."""
    graph, size = under_check.graph, facts.parameters
    models = sum(kind == "models" for kind in graph.kinds.values())
    forms = len(graph.exported) * sum(FORMS.get(form, FORMS["fp32"]) for form in graph.forms)
    limits = [config.trainer.get("save_total_limit") for _, _, config in under_check.trained()]
    kept = max((limit for limit in limits if isinstance(limit, int)), default=1) + 1
    need = STORED * size * (4 * models + forms) + kept * 12 * size
    made = sum(path.stat().st_size for path in Path("artifacts").rglob("*") if path.is_file())
    free = shutil.disk_usage(".").free
    left = max(0, math.ceil(need - STORED * made))
    if left > free:
        fit = max(0, round((free - kept * 12 * size) / (STORED * 4 * size)))
        yield (
            f"{graph.path}: {models} models of {size / 1e6:.0f} M parameters, with exports, checkpoints and DVC's "
            f"cache, take about {left / GIB:.1f} GiB more, and {free / GIB:.1f} GiB are free: room for about "
            f"{min(fit, models)}; free some, `dvc gc --workspace`, or take models out of the graph"
        )
