"""YAML as a person writes it: a key a line, its comment behind it, short lists and mappings in one line."""

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z_/.][\w./@+-]*(?::[A-Za-z_][\w-]*)?(?: [\w./-]+)*")
_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
COLUMN = 32
"""Column at which comments stand, where the line is no longer."""


def flow(value: Any) -> str:
    """Write a value in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(inner) for inner in value) + "]"
    if isinstance(value, str):
        bare = _BARE.fullmatch(value) and value.lower() not in _RESERVED and not value.startswith((".", "- "))
        return value if bare else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value)


def line(key: str, value: Any = None, comment: str = "", indent: int = 0) -> str:
    """Write a key with its value; without one, the key of a section.

    Args:
        key: the key.
        value: what `flow` writes; `...` begins a section.
        comment: behind it.
        indent: blanks before it.
    """
    text = f"{' ' * indent}{key}:" + ("" if value is ... else f" {flow(value)}")
    return f"{text.ljust(COLUMN - 1)} # {comment}" if comment else text


def section(key: str, entries: Mapping[str, Any], comments: Mapping[str, str], comment: str = "") -> list[str]:
    """Write a mapping as a section, an entry a line, each with its comment where it has one."""
    return [line(key, ..., comment), *(line(name, value, comments.get(name, ""), 2) for name, value in entries.items())]
