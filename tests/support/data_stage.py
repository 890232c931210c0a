"""Helpers: a small data recipe in a scratch folder, and the stage run on it."""

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks import data
from tasks.stage.config import load
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress

SFT = {"messages": [{"role": "user", "content": "{question}"}, {"role": "assistant", "content": "{answer}"}]}
EVAL = {"question": "{question}", "answer": "{answer}"}
PAIR = {
    "prompt": [{"role": "user", "content": "{question}"}],
    "chosen": [{"role": "assistant", "content": "{chosen}"}],
    "rejected": [{"role": "assistant", "content": "{rejected}"}],
}


def rows(source: str, template: dict[str, Any], split: str = "hash", limit: int | None = None) -> dict[str, Any]:
    """One entry of a set's `rows`."""
    return {"source": source, "split": split, "limit": limit, "map": template}


def file_source(file: str) -> dict[str, Any]:
    """A local file that nobody pinned."""
    return {"file": file, "sha256": None, "licence": "CC0-1.0"}


def recipe(**changes: Any) -> dict[str, Any]:
    """A recipe of one local file, `rows.jsonl`, that becomes an `sft` set."""
    base: dict[str, Any] = {
        "seed": 0,
        "threads": 1,
        "split": {"validation": 0.2, "test": 0.2},
        "scrub": ["email"],
        "near_duplicates": {"threshold": 0.7, "permutations": 128, "ngram": 2},
        "decontamination": {"ngram": 8, "overlap": 0.5},
        "max_bad_share": 0.5,
        "report_examples": 3,
        "sources": {"mine": file_source("rows.jsonl")},
        "sets": {"sft": {"near_duplicates": False, "rows": [rows("mine", SFT)]}},
    }
    return base | changes


def write_rows(folder: Path, items: list[Any], name: str = "rows.jsonl") -> None:
    """Write a JSONL file; a string is written as the line it is."""
    lines = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in items]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def numbered(count: int) -> list[dict[str, Any]]:
    """Good rows that resemble each other little."""
    words = ["apple", "river", "stone", "cloud", "tiger", "ladder", "window", "garden", "pencil", "mirror"]
    return [
        {"question": f"Tell me about {words[i % 10]} number {i}?", "answer": f"The {words[i * 7 % 10]} is {i * 37}."}
        for i in range(count)
    ]


def run(folder: Path, config: dict[str, Any], out: str = "out") -> Path:
    """Run the stage in process on a recipe given as a mapping; the folder that it wrote."""
    params = folder / "data.yaml"
    with params.open("w", encoding="utf-8") as f:
        YAML().dump(config, f)
    return run_file(Path("data.yaml"), folder / out)


def run_file(params: Path, out: Path) -> Path:
    """Run the stage in process on a recipe file."""
    out.mkdir(exist_ok=True)
    progress = Progress(None)
    stage = Run(out, params, "data", out / "checkpoints", {}, progress, main_process=True)
    data.main(load(params, data.Config), stage)
    return out


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def report(out: Path) -> dict[str, Any]:
    """The data report."""
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def sets(**named: tuple[dict[str, Any], bool]) -> dict[str, Any]:
    """Sets of the source `mine` by name (`eval_x` for `eval:x`): their map, and whether near-duplicates go."""
    return {
        name.replace("eval_", "eval:"): {"near_duplicates": near, "rows": [rows("mine", template)]}
        for name, (template, near) in named.items()
    }


def preferences(folder: Path, items: list[dict[str, Any]], template: dict[str, Any] = PAIR) -> Path:
    """Run the stage on these pairs."""
    write_rows(folder, items)
    return run(folder, recipe(sets=sets(preferences=(template, False))))
