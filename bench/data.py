"""The data stage at scale: rows a second, peak memory of all its processes, and seconds of each step.

    python -m bench.data --rows 10000                          # JSONL, two processes, hashes of `rensa`
    python -m bench.data --rows 10000 --format parquet --processes 1
    python -m bench.data --rows 10000 --shards 100000          # sets of more rows as Parquet shards
    python -m bench.data --rows 10000 --code OTHER --plain     # another checkout, a recipe without the keys of scale
    python -m bench.data --rows 100000 --against datatrove --python OTHER/bin/python    # see bench/duplicates.py

Each row is a question and an answer of 300 words together, drawn by Zipf's law from a seed: one of twenty repeats an
earlier row exactly, one of ten repeats one but for one to three words. An evaluation set of 500 questions is kept out
of them. The rows are made once for a number and a format, in `--work`. Memory is the resident memory of the stage and
the processes below it, added up and looked at twenty times a second; pages that they share count in each.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from bench.duplicates import compared

QUESTION, ANSWER, VOCABULARY = 20, 280, 50_000
"""Words of a question and of an answer, and different words at most."""
EXACT, NEAR, ASKED = 0.05, 0.10, 500
"""Shares of rows that repeat another one, exactly and nearly, and questions of the evaluation set."""
RECENT = 2_000
"""Rows back, at most, of the row that is repeated."""
LOOKS = 0.05
"""Seconds between two looks at the memory."""
ROOT = Path(__file__).parents[1]


def rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield rows with `question` and `answer`, the same ones at every call."""
    rng = random.Random(seed)
    draw = np.random.default_rng(seed)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    edges = np.cumsum(weights / weights.sum())
    earlier: list[list[int]] = []
    drawn: Any = iter(())
    for _ in range(count):
        kind = rng.random()
        if earlier and kind < EXACT + NEAR:
            words = list(rng.choice(earlier))
            for _ in range(0 if kind < EXACT else rng.randint(1, 3)):
                words[rng.randrange(QUESTION, len(words))] = rng.randrange(VOCABULARY)
        else:
            try:
                words = next(drawn)
            except StopIteration:
                places = np.searchsorted(edges, draw.random((1000, QUESTION + ANSWER)))
                drawn = iter(np.minimum(places, VOCABULARY - 1).tolist())
                words = next(drawn)
        earlier.append(words)
        if len(earlier) > RECENT:
            earlier.pop(0)
        yield {"question": _text(words[:QUESTION], "?"), "answer": _text(words[QUESTION:], ".")}


def _text(words: list[int], end: str) -> str:
    """Write words as sentences of twelve."""
    spelt = [f"w{word:x}" for word in words]
    sentences = [" ".join(spelt[i : i + 12]).capitalize() for i in range(0, len(spelt), 12)]
    return ". ".join(sentences) + end


def write(folder: Path, count: int, form: str) -> Path:
    """Write the rows to a file of this name and number, unless it is there."""
    path = folder / f"rows-{count}.{form}"
    if path.exists():
        return path
    temporary = path.with_suffix(".part")
    if form == "jsonl":
        with temporary.open("w", encoding="utf-8") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows(count))
    else:
        import pyarrow
        from pyarrow import parquet

        batch: list[dict[str, str]] = []
        with parquet.ParquetWriter(temporary, pyarrow.schema({"question": "string", "answer": "string"})) as writer:
            for row in rows(count):
                batch.append(row)
                if len(batch) == 10_000:
                    writer.write_table(pyarrow.Table.from_pylist(batch))
                    batch = []
            if batch:
                writer.write_table(pyarrow.Table.from_pylist(batch))
    temporary.rename(path)
    return path


def recipe(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make the content of a data.yaml for the rows."""
    messages = [{"role": "user", "content": "{question}"}, {"role": "assistant", "content": "{answer}"}]
    near: dict[str, Any] = {"threshold": 0.8, "permutations": 128, "ngram": 5}
    scale: dict[str, Any] = {}
    if not options.plain:
        near["hashes"] = options.hashes
        scale["processes"] = options.processes
        if options.shards:
            scale["shards"] = {"rows": options.shards}
    entry = {"split": "hash", "limit": None}
    test = {"source": "asked", "split": "published", "limit": None}
    return {
        "seed": 0,
        "threads": 1,
        "split": {"validation": 0.01, "test": 0.01},
        "scrub": ["email", "key"],
        "near_duplicates": near,
        "decontamination": {"ngram": 8, "overlap": 0.5},
        "max_bad_share": 0.0,
        "report_examples": 5,
        **scale,
        "sources": {
            "rows": {"file": path.name, "sha256": None, "licence": "CC0-1.0"},
            "asked": {"file": "asked.jsonl", "sha256": None, "licence": "CC0-1.0"},
        },
        "sets": {
            "sft": {"near_duplicates": True, "rows": [{"source": "rows", **entry, "map": {"messages": messages}}]},
            "eval:asked": {
                "near_duplicates": False,
                "rows": [{**test, "map": {"question": "{question}", "answer": "{answer}"}}],
            },
        },
    }


def memory(root: int) -> int:
    """Add up the resident memory, in bytes, of a process and all below it."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                pages[int(entry.name)] = int((entry / "statm").read_text().split()[1])
            except (OSError, IndexError):  # it has ended meanwhile
                continue
    below = {root}
    grown = True
    while grown:
        found = {process for process, parent in parents.items() if parent in below} - below
        below |= found
        grown = bool(found)
    return sum(pages.get(process, 0) for process in below) * os.sysconf("SC_PAGE_SIZE")


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the stage once on the rows, and say how long it took and what it held."""
    path = write(folder, options.rows, options.format)
    with (folder / "asked.jsonl").open("w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows(ASKED, seed=1))
    with (folder / "data.yaml").open("w", encoding="utf-8") as f:
        YAML().dump(recipe(path, options), f)
    command = [sys.executable, "-m", "tasks.data", "data.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(options.code.resolve()), "POLM_EVENTS": str(folder / "events")}
    start = time.perf_counter()
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(LOOKS)
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        sys.exit((folder / "log").read_text(encoding="utf-8"))
    used = os.times()
    steps = json.loads((folder / ".polm/measured/out.json").read_text(encoding="utf-8"))
    report = json.loads((folder / "out/report.json").read_text(encoding="utf-8"))
    return {
        "rows": options.rows,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.children_user + used.children_system, 1),
        "rows_per_s": round(options.rows / seconds),
        "peak_mb": round(peak / 1e6),
        "steps": {key.removesuffix("_seconds"): value for key, value in steps.items() if key.endswith("_seconds")},
        "counts": report["sets"]["sft"]["sources"]["rows"],
    }


def main() -> None:
    """Print one line of JSON for each number of rows."""
    parser = argparse.ArgumentParser(prog="python -m bench.data")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--hashes", choices=["sha1", "rensa"], default="rensa")
    parser.add_argument("--shards", type=int, help="rows of a set from which it is written as shards")
    parser.add_argument("--plain", action="store_true", help="a recipe without the keys of scale")
    parser.add_argument("--code", type=Path, default=ROOT, help="checkout whose stage is run")
    parser.add_argument("--work", type=Path, help="folder for rows and outputs; a temporary one without")
    parser.add_argument("--against", choices=["datatrove", "text-dedup"], help="compare near-duplicates alone")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the other library")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        for count in options.rows:
            options.rows = count
            if options.against:
                path = write(work, options.rows, "jsonl")
                print(json.dumps(compared(path, options.against, options.python)), flush=True)
            else:
                print(json.dumps(measured(options, work)), flush=True)


if __name__ == "__main__":
    main()
