"""Tasks and groups of lm-evaluation-harness by name, read from its YAML files before any of them is built.

The harness's own index opens all of its 14,000 files. Here the files whose names resemble the one asked for are opened
first, with those of their folder, and all of them only where that does not do: for a misspelt name, or for a tag, whose
members lie anywhere.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError


@dataclass(frozen=True)
class Leaf:
    """One task, as its YAML file says, functions unresolved."""

    name: str
    """Name of the task."""
    config: dict[str, Any]
    """Keys of its file, those that it includes, and what the group around it overrides."""


@dataclass(frozen=True)
class Known:
    """What the harness calls by one name, and all that belongs to it."""

    name: str
    """Name that was asked for."""
    leaves: tuple[Leaf, ...]
    """Its tasks: one, or those of the group or tag, each once, in the harness's order."""
    index: Mapping[str, Any]
    """Entries of the harness's index, by name, that suffice to build it."""


def home() -> Path:
    """Return the folder of the harness's task files."""
    from lm_eval import tasks

    return Path(tasks.__path__[0])


def find(name: str, place: str) -> Known:
    """Find a task, group or tag; opens its YAML files and no data.

    Args:
        name: of the harness.
        place: file and key that name it, for the message.

    Raises:
        ConfigError: the harness has no such name (with the nearest one), or a group names a task that is none.
    """
    from lm_eval.tasks._index import Kind, TaskIndex

    near = _near(home(), name)
    index = TaskIndex.build(near) if near else {}
    if name not in index or index[name].kind is Kind.TAG or _missing(name, index):
        index = TaskIndex.build([home()])
    if name not in index:
        raise ConfigError(f"{place}: lm-evaluation-harness has no task '{name}'{suggest(name, index)}")
    if missing := _missing(name, index):
        raise ConfigError(
            f"{place}: '{name}' names the task '{missing}', which this version of lm-evaluation-harness has not"
        )
    leaves: dict[str, Leaf] = {}
    for leaf in _leaves(name, {}, index):
        leaves.setdefault(leaf.name, leaf)
    return Known(name, tuple(leaves.values()), index)


def _near(root: Path, name: str) -> list[Path]:
    """List the folders right below `root` with a file or folder of that name, or of the name up to one of its `_`."""
    words = name.split("_")
    stems = {"_".join(words[:n]) for n in range(1, len(words) + 1)}
    found = set()
    for folder, folders, files in os.walk(root):
        parts = Path(folder).relative_to(root).parts
        if not parts:
            found |= {root / child for child in folders if child in stems}
        elif any(file.removesuffix(".yaml").lstrip("_") == name for file in files):
            found.add(root / parts[0])
    return sorted(found)


def _missing(name: str, index: Mapping[str, Any]) -> str | None:
    """Name the first member of a group, at any depth, that an index lacks or knows only as a tag's name."""
    for leaf in _leaves(name, {}, index):
        if not leaf.config:
            return leaf.name
    return None


def _leaves(name: str, overrides: Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[Leaf]:
    """Yield the tasks of an entry; one that the index lacks has an empty configuration."""
    from lm_eval.tasks._index import Kind

    entry = index.get(name)
    if entry is None:
        yield Leaf(name, {})
    elif entry.kind is Kind.TAG:
        for member in sorted(entry.tags):
            yield from _leaves(member, overrides, index)
    elif entry.kind is Kind.GROUP:
        yield from _members(entry.cfg, overrides, index)
    else:
        yield Leaf(name, {**entry.cfg, **overrides})


def _members(group: Mapping[str, Any], overrides: Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[Leaf]:
    """Yield the tasks of a group's mapping: names, names with overrides, and groups that are written out inside it."""
    members = group.get("task") or []
    for member in [members] if isinstance(members, str) else members:
        if isinstance(member, str):
            yield from _leaves(member, overrides, index)
            continue
        changes = {**overrides, **{key: value for key, value in member.items() if key not in ("task", "group")}}
        if "group" not in member:
            known = member["task"] in index
            yield from _leaves(member["task"], changes, index) if known else iter([Leaf(member["task"], dict(member))])
        elif member["group"] in index:
            yield from _leaves(member["group"], changes, index)
        else:
            yield from _members(member, overrides, index)
