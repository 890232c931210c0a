"""The machine against the recipe: memory, disk, network, GPUs. Part of `polm doctor`.

What a recipe asks for is read from its values, wherever they stand: `hub` is a hub id, `package` a wheel, `launch`
or `bf16` want a GPU. The figures for memory and disk are rules of thumb from the size of the model.
"""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from flows.runners import slots
from tasks.stage import artifact
from tasks.stage.config import read_yaml
from tasks.stage.errors import PolmError

BASE = artifact.MODELS / "base"
DOWNLOADS = artifact.STATE / "downloads"
TRAIN_BYTES = 16
"""Bytes a parameter while all of it is trained in fp32: weights, gradients and the two moments of Adam."""
ADAPTER_BYTES = 6
"""Bytes a parameter while an adapter is trained: the frozen weights, and room for activations."""
COPIES = 14
"""Copies of the weights in fp32 that a run stores: models, their exports in three forms, DVC's cache, the registry."""
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    level: Literal["ok", "note", "warn", "fail"]
    """What it means: `note` is for what cannot be found out from here."""
    check: str
    found: str
    remedy: str = ""


def examine(recipe: Path) -> list[Finding]:
    """Check what the recipe in this folder asks for against what is here."""
    values = dict(leaves(recipe))
    return [*size(values), *sources(values), *gpu(values), *threads(values)]


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a recipe's files as (`sft.yaml.trainer.bf16`, value)."""
    if isinstance(value, Path):
        for path in sorted(value.glob("*.yaml")):
            try:
                yield from leaves(read_yaml(path), path.name)
            except PolmError:
                continue  # the check of the recipe names it
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{key}.{name}")
    else:
        yield key, value


def size(values: dict[str, Any]) -> Iterator[Finding]:
    """Check memory and disk against the size of the base model."""
    free = shutil.disk_usage(".").free / GIB
    count = parameters(values)
    if count is None:
        yield Finding("ok" if free > 5 else "warn", "disk", f"{free:.1f} GiB free", "" if free > 5 else "free 5 GiB")
        return
    adapter = any(re.search(r"\.(lora|peft)\b", key) and value is not None for key, value in values.items())
    need = count * (ADAPTER_BYTES if adapter else TRAIN_BYTES) / GIB + 1
    memory = psutil.virtual_memory().available / GIB
    enough = memory > need or bool(slots.visible_gpus())
    found = f"{memory:.1f} GiB available, about {need:.1f} needed for {count / 1e6:.0f} M parameters"
    remedy = "end other programs, train an adapter (`lora`), or lower the batch and length"
    yield Finding("ok" if enough else "warn", "memory", found, "" if enough else remedy)
    need = count * 4 * COPIES / GIB + 1
    found = f"{free:.1f} GiB free, about {need:.1f} needed"
    yield Finding(
        "ok" if free > need else "fail", "disk", found, "" if free > need else "free some, or `dvc gc --workspace`"
    )


def parameters(values: dict[str, Any]) -> float | None:
    """Count the base model's parameters, by its weights or, without them, by its name (`Qwen3-0.6B`, `135M`)."""
    for key, value in values.items():
        size = re.search(r"(\d+(?:\.\d+)?)([MB])\b", value) if isinstance(value, str) else None
        if size and key.startswith("base.yaml."):
            return float(size[1]) * {"M": 1e6, "B": 1e9}[size[2]]
    weights = sum(path.stat().st_size for path in BASE.glob("*.safetensors"))
    return weights / 4 if weights else None


def sources(values: dict[str, Any]) -> Iterator[Finding]:
    """Check that the hub and the package index answer, where the recipe needs them."""
    hub = sorted({v for k, v in values.items() if k.endswith(".hub") and isinstance(v, str) and not Path(v).is_dir()})
    if hub:
        names = ", ".join(hub)
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            yield Finding(
                "warn", "hub", f"offline (HF_HUB_OFFLINE=1); needs {names}", "works if they are in the hub's cache"
            )
        elif _answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
            yield Finding("ok", "hub", f"answers; needs {names}")
        else:
            remedy = "connect, set HF_ENDPOINT to a mirror, or put local folders of these names here"
            yield Finding("fail", "hub", f"does not answer; needs {names}", remedy)
    wheels = sorted({v for k, v in values.items() if k.endswith(".package") and isinstance(v, str)})
    missing = [w for w in wheels if not list(DOWNLOADS.glob(f"**/{w.replace('-', '_')}-*.whl"))]
    if wheels:
        found = f"to be downloaded: {', '.join(missing)}" if missing else f"downloaded: {', '.join(wheels)}"
        yield Finding("warn" if missing else "ok", "wheels", found, "needs pip's package index once" if missing else "")


def _answers(url: str) -> bool:
    host = re.sub(r"^\w+://|/.*$", "", url)
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or (80 if url.startswith("http:") else 443))), timeout=5).close()
    except OSError:
        return False
    return True


def gpu(values: dict[str, Any]) -> Iterator[Finding]:
    """Check that a GPU is there where the recipe wants one."""
    wanting = [
        key
        for key, value in values.items()
        if (key.endswith((".bf16", ".fp16")) and value is True)
        or (key.endswith(".launch") and value is not None)
        or (key.endswith(".device") and str(value).startswith("cuda"))
    ]
    gpus = slots.visible_gpus()
    if wanting and not gpus:
        remedy = "run on a machine with a GPU, or choose a recipe for CPUs (tiny, smollm2)"
        yield Finding("fail", "GPU", f"none visible, wanted by {', '.join(wanting[:3])}", remedy)
    else:
        yield Finding("ok", "GPU", f"{len(gpus)} visible" + ("" if wanting else ", none wanted"))


def threads(values: dict[str, Any]) -> Iterator[Finding]:
    """Check that the machine has the cores that the recipe counts on."""
    most = max((v for k, v in values.items() if k.endswith(".yaml.threads") and isinstance(v, int)), default=1)
    cores = os.cpu_count() or 1
    note = "slower, but right: the recipe fixes it because it changes the bits" if most > cores else ""
    yield Finding("warn" if note else "ok", "threads", f"{most} for {cores} cores", note)
