"""A recipe's graph of a few models, written to a folder with changes, and the stages of `dvc.yaml`."""

import json
from pathlib import Path
from typing import Any

from tasks.stage import blocks, recipe
from tests.conftest import REPO

BLOCKS = blocks.read(REPO / "dvc.yaml")
GRAPH: dict[str, Any] = {
    "recipe": "mine",
    "sft": {"sft": {"from": "base", "claim": "sums.exact_match"}},
    "reward": {"scorer": {"from": "sft"}},
    "grpo": {"grpo": {"from": "sft"}, "grpo_again": {"from": "rft", "claim": "sums.exact_match", "over": "grpo"}},
    "rejection": {"rft": {"from": "grpo"}},
    "ppo": {"ppo": {"from": "grpo_again", "reward": "scorer"}},
    "prune": {"half": {"from": "rft", "settings": "small", "method": "wanda"}},
    "evaluate": ["base", "sft", "grpo", "grpo_again"],
    "export": ["grpo_again"],
    "forms": ["int8"],
}


def graph(folder: Path, changes: dict[str, Any] | None = None) -> recipe.Graph:
    """Read `GRAPH` with some keys replaced; None removes one."""
    values = {key: value for key, value in (GRAPH | (changes or {})).items() if value is not None}
    path = folder / "mine" / recipe.FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))  # JSON is YAML, and keeps the order
    return recipe.read(path)
