"""Files of 60 rows as a user has them, each in a format of its own, and a folder to write a recipe in."""

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

from tests.conftest import REPO

ROWS = 60
DEVICES = ["lamp", "fan", "router", "printer", "phone", "camera", "door", "heater", "clock", "radio"]


def question(number: int) -> str:
    fault = random.Random(number).choice(DEVICES)
    return f"How do I reset the {DEVICES[number % 10]} number {number} after a {fault} fault?"


def reply(number: int) -> str:
    first, second = DEVICES[number * 3 % 10], DEVICES[number * 7 % 10]
    return f"Hold the {first} button for {number % 17 + 3} seconds, then wait until the {second} light is green."


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write(folder: Path) -> None:
    """Write `tickets.jsonl`, `share.json`, `alpaca.csv`, `pairs.parquet` and `sums.jsonl.gz`."""
    import csv

    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    tickets = [{"messages": [user(question(i)), assistant(reply(i))]} for i in range(ROWS)]
    (folder / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tickets))
    talks = [[{"from": "human", "value": question(100 + i)}, {"from": "gpt", "value": reply(i)}] for i in range(ROWS)]
    (folder / "share.json").write_text(json.dumps([{"conversations": talk} for talk in talks]))
    with (folder / "alpaca.csv").open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["instruction", "input", "output"])
        writer.writerows([question(200 + i), "", reply(i)] for i in range(ROWS))
    pairs = [{"prompt": question(300 + i), "chosen": reply(i), "rejected": f"No idea, {i}."} for i in range(ROWS)]
    parquet.write_table(pyarrow.Table.from_pylist(pairs), folder / "pairs.parquet")
    sums: list[dict[str, Any]] = [{"question": f"What is {i} + {7 * i}?", "answer": str(8 * i)} for i in range(ROWS)]
    with gzip.open(folder / "sums.jsonl.gz", "wt") as f:
        f.writelines(json.dumps(row) + "\n" for row in sums)


FILES = ["data/tickets.jsonl", "data/share.json", "data/alpaca.csv", "data/pairs.parquet", "data/sums.jsonl.gz"]


def prepare(folder: Path, model: Path) -> None:
    """Make a folder one to write a recipe in: `dvc.yaml`, gates, the link to a recipe, the data, and a model."""
    shutil.copy(REPO / "dvc.yaml", folder)
    (folder / "mlflow").mkdir()
    shutil.copy(REPO / "mlflow/gates.yaml", folder / "mlflow")
    (folder / "params/tiny").mkdir(parents=True)
    shutil.copy(REPO / "params/report.yaml", folder / "params")
    shutil.copy(REPO / "params/tiny/recipe.yaml", folder / "params/tiny")
    (folder / "params/recipe.yaml").symlink_to("tiny/recipe.yaml")
    (folder / "models").mkdir()
    kept = shutil.ignore_patterns("manifest.json")
    shutil.copytree(model, folder / "models/llama", ignore=kept)
    write(folder / "data")


def more(folder: Path) -> None:
    """Write `more.csv.gz`, questions with long replies."""
    rows = "".join(f'{question(400 + i)},"{reply(i)}"\n' for i in range(ROWS))
    (folder / "more.csv.gz").write_bytes(gzip.compress(f"question,reply\n{rows}".encode()))
