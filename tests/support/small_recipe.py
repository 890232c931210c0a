"""A small recipe that passes the check, with rows in a file and a model in a folder, to be broken."""

import json
import shutil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.stage.config import read_yaml
from tests.conftest import REPO

SMALL = Path("params/small")
ROWS = Path("rows.jsonl")
USER = [{"role": "user", "content": "{question}"}]


def says(column: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": f"{{{column}}}"}]


MAPS: dict[str, dict[str, Any]] = {
    "sft": {"messages": [*USER, *says("reply")]},
    "preferences": {"prompt": USER, "chosen": says("chosen"), "rejected": says("rejected")},
    "prompts": {"prompt": USER, "answer": "{answer}"},
    "eval:sums": {"question": "{question}", "answer": "{answer}"},
}
"""Set to its map."""


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    with path.open("w") as file:
        yaml.dump(values, file)


def change(path: Path, key: str, value: Any) -> None:
    """Set one key of a YAML file, `trainer.max_length`; keys with dots in them are not reached."""
    values = read_yaml(path)
    section: Any = values
    *outer, last = key.split("/")
    for part in outer:
        section = section[int(part) if part.isdigit() else part]
    section[int(last) if last.isdigit() else last] = value
    write(path, values)


def make(model: Path) -> None:
    """Write the recipe `small`, its rows, its gates and `dvc.yaml` into the working directory, and copy its model."""
    tiny = REPO / "params/tiny"
    shutil.copyfile(REPO / "dvc.yaml", "dvc.yaml")
    shutil.copytree(model, "model")
    rows = [
        {
            "question": f"{i} + 1?", "reply": f"It is {i + 1}.", "chosen": f"{i + 1}. Happy to help!",
            "rejected": str(i + 1), "answer": str(i + 1),
        }
        for i in range(60)
    ]  # fmt: skip
    ROWS.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    graph = {"sft": {"sft": {"from": "base", "claim": "sums.exact_match"}}, "dpo": {"dpo": {"from": "sft"}}}
    graph |= {"grpo": {"grpo": {"from": "sft"}}}
    lists = {"evaluate": ["base", "sft", "dpo", "grpo"], "export": ["dpo"], "forms": ["int8"]}
    write(SMALL / "recipe.yaml", {"recipe": "small", **graph, **lists})
    for name in ("sft", "dpo", "grpo", "report", "export_onnx", "evaluate", "data"):
        write(SMALL / f"{name}.yaml", read_yaml(tiny / f"{name}.yaml"))
    shutil.copytree(tiny / "forms", SMALL / "forms")
    shutil.copytree(tiny / "eval", SMALL / "eval", ignore=lambda _, names: set(names) - {"sums.yaml"})
    change(SMALL / "evaluate.yaml", "tasks", [{"file": "eval/sums.yaml", "limit": None, "group_by": []}])
    change(SMALL / "grpo.yaml", "dataset", "prompts")
    change(SMALL / "export_onnx.yaml", "parity/rows", "eval/sums.jsonl")
    source = {"file": str(ROWS), "sha256": None, "licence": "Apache-2.0"}
    change(SMALL / "data.yaml", "sources", {"rows": source})
    sets = {
        name: {
            "near_duplicates": False,
            "rows": [{"source": "rows", "split": "hash", "limit": None, "map": template}],
        }
        for name, template in MAPS.items()
    }
    change(SMALL / "data.yaml", "sets", sets)
    base = {"seed": 0, "threads": 1, "dtype": "float32", "source": {"folder": "model", "licence": "Apache-2.0"}}
    write(SMALL / "base.yaml", base)
    gates = {"form": "int8", "quality": {"metric": "sums.helpful", "gain": 0.0}, "regression": {"sums.*": 0.05}}
    shared = read_yaml(REPO / "mlflow/gates.yaml")["default"]
    write(Path("mlflow/gates.yaml"), {"default": shared, "small": gates})
