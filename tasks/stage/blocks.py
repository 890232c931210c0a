"""The stages of `dvc.yaml` as a recipe's graph meets them: which keys a method's models have to have, what they read.

What a model has to say about itself is read from the block of its method: the `${item.…}` that the block uses. So a
new method is a block in `dvc.yaml`, and no line here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError
from tasks.stage.recipe import MAPPINGS

DVC = Path("dvc.yaml")
FINGERPRINT = "fingerprint"
"""The stage that reads the recipe's folder, and no one file of it."""
PART = "${item.index}.yaml"
"""Recipe file of a shard: that of its index, of which the shard reads the keys that `dvc.yaml` names."""

_ITEM = re.compile(r"\$\{item\.(\w+)\}")
_COMMAND = re.compile(r"-m\s+tasks\.(\w+)\s+params/\$\{recipe\}/(\S+\.yaml)")


@dataclass(frozen=True)
class Block:
    """One stage of `dvc.yaml`, before a recipe's graph is filled in."""

    name: str
    """Name of the stage; of a method, as the graph says it."""
    module: str
    """Stage module that it runs, without the package: `sft`."""
    file: str
    """Recipe file that the module reads, e.g. `${key}.yaml`."""
    method: bool
    """Whether a recipe's graph says which models it makes (`foreach`)."""
    keys: tuple[str, ...]
    """Keys that each of its models has to have, e.g. `from`, `reward`."""
    reads: Mapping[str, str]
    """Key that names an input to the folder that the input lies in: `from` to `artifacts/models`."""
    out: str
    """Folder that its artifacts lie in: `artifacts/models`."""
    params: tuple[str, ...]
    """Keys of the recipe file that enter its hash; empty when the whole file does."""


def read(path: Path = DVC) -> dict[str, Block]:
    """Read the stages of `dvc.yaml`.

    Returns:
        Name to stage, in the order of the file; stages that are no `python -m tasks.…` are left out.

    Raises:
        ConfigError: the file cannot be read, or a method's `foreach:` is not `${<its own name>}`.
    """
    stages = read_yaml(path).get("stages")
    if not isinstance(stages, dict):
        raise ConfigError(f"{path}: no stages; restore it with `git checkout {path}`")
    return {name: block for name, stage in stages.items() if (block := _block(path, name, stage))}


def _block(path: Path, name: str, stage: Mapping[str, Any]) -> Block | None:
    body = stage.get("do", stage)
    command = _COMMAND.search(str(body["cmd"]))
    if not command:
        if name == FINGERPRINT or "-m tasks." not in str(body["cmd"]):  # or a stage of the user's own
            return None
        raise ConfigError(
            f"{path}: stages.{name}.cmd does not begin `python -m tasks.NAME params/${{recipe}}/FILE.yaml`"
        )
    method = "foreach" in stage and name not in MAPPINGS
    if "foreach" in stage and stage["foreach"] != f"${{{name}}}":
        raise ConfigError(f"{path}: stages.{name}.foreach is {stage['foreach']!r}; write '${{{name}}}', its own name")
    deps = [str(dep) for dep in body.get("deps", [])]
    reads = {_ITEM.findall(dep)[0]: dep[: dep.index("/${item.")] for dep in deps if "/${item." in dep}
    text = " ".join([body["cmd"], *deps])
    keys = tuple(dict.fromkeys(_ITEM.findall(text))) if method else ()
    out = str(body["outs"][0]).partition("/${")[0]
    listed = [values for entry in body.get("params", []) if isinstance(entry, dict) for values in entry.values()]
    params = tuple(listed[0]) if listed and listed[0] else ()
    return Block(name, command[1], command[2], method, keys, reads, out, params)
