"""Devices that recipe files name, `cpu` or `cuda:1`: whether torch knows the name, and whether the machine has one."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.stage.errors import ConfigError

KEY = "device"
"""Key of a recipe file, at any depth, whose value is a device."""
KINDS = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices on which stages run."""
_NAME = re.compile(rf"({'|'.join(KINDS)})(?::(\d+))?")


def named(config: BaseModel) -> dict[str, str]:
    """Map the keys of a configuration that name devices, with their sections before them, to what they name."""
    return dict(_named(config.model_dump(), ""))


def _named(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if key == KEY and isinstance(value, str):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _named(value, f"{prefix}{key}.")


def check_names(path: Path, config: BaseModel) -> None:
    """Check that every device of a recipe file is one, wherever it may be. Raises ConfigError."""
    wrong = [
        f"{path}: {key} is '{device}', no device; write {', '.join(KINDS)}, or one of several, e.g. cuda:1"
        for key, device in named(config).items()
        if not _NAME.fullmatch(device)
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))


def lacking(path: Path, config: BaseModel) -> list[str]:
    """Say which devices of a recipe file this machine lacks, one message each; torch is loaded for others than `cpu`.

    Args:
        path: the recipe file, for the messages.
        config: what it holds, whose devices passed `check_names`.
    """
    messages = []
    for key, device in named(config).items():
        match = _NAME.fullmatch(device)
        if match is None or match[1] == "cpu":
            continue
        count = _count(match[1])
        if int(match[2] or 0) >= count:
            what = f"{count} of them, numbered from 0" if count else "none, or torch does not see it"
            messages.append(
                f"{path}: {key} is '{device}', and this machine has {what}; run on one that has it, or set "
                f"`{KEY}: cpu` there"
            )
    return messages


def require(path: Path, config: BaseModel) -> None:
    """Check that every device of a recipe file is here. Raises ConfigError."""
    check_names(path, config)
    if messages := lacking(path, config):
        raise ConfigError("\n".join(messages))


def _count(kind: str) -> int:
    """Count the devices of a kind that torch can use."""
    import torch

    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return int({"cuda": torch.cuda, "xpu": torch.xpu}[kind].device_count())
