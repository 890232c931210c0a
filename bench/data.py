"""The data stage at scale: rows a second, peak memory of all its processes, and seconds of each step.

    python -m bench.data --rows 10000                          # JSONL, two processes, hashes of `rensa`
    python -m bench.data --rows 10000 --format parquet --processes 1
    python -m bench.data --rows 10000 --shards 100000          # sets of more rows as Parquet shards
    python -m bench.data --rows 10000 --code OTHER --plain     # another checkout, a recipe without the keys of scale
    python -m bench.data --rows 100000 --against datatrove --python OTHER/bin/python    # see bench/duplicates.py
    python -m bench.data --rows 10000 30000 100000 300000 1000000 --keep FOLDER --plot docs/images/data.png

The last one is the picture in docs/data.md. A million rows need some 15 GB of the disk. Each run's figures go to
`figures.json` in the folder as it ends, in place of those of as many rows; `--rows` without a number draws what is
there.

Each row is a question and an answer of 300 words together, drawn by Zipf's law from a seed: one of twenty repeats an
earlier row exactly, one of ten repeats one but for one to three words. An evaluation set of 500 questions is kept out
of them. The rows are made once for a number and a format, in `--keep`. Memory is the resident memory of the stage and
the processes below it, added up and looked at twenty times a second; pages that they share count in each.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from bench import scale_plot
from bench.duplicates import compared
from bench.memory import resident

QUESTION, ANSWER, VOCABULARY = 20, 280, 50_000
"""Words of a question and of an answer, and different words at most."""
EXACT, NEAR, ASKED = 0.05, 0.10, 500
"""Shares of rows that repeat another one, exactly and nearly, and questions of the evaluation set."""
RECENT = 2_000
"""Rows back, at most, of the row that is repeated."""
LOOKS, SAID = 0.05, 15
"""Seconds between two looks at the memory, and between two lines about how far the stage is."""
ROOM = 10
"""Bytes of free disk for each byte of the rows: they are spooled once, and their facts and sets are written."""
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
    say(f"making {count:,} rows")
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


def say(line: str) -> None:
    """Say on standard error how far it is; standard output is for figures."""
    print(f"bench.data: {line}", file=sys.stderr, flush=True)


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the stage once on the rows, and say how long it took and what it held.

    Raises:
        SystemExit: the disk has no room for it, the stage failed, or it took longer than `--limit`.
    """
    path = write(folder, options.rows, options.format)
    if (free := shutil.disk_usage(folder).free) < (needed := ROOM * path.stat().st_size):
        sys.exit(f"{folder}: {free >> 20} MB are free, {needed >> 20} MB are needed; name another --keep")
    with (folder / "asked.jsonl").open("w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows(ASKED, seed=1))
    with (folder / "data.yaml").open("w", encoding="utf-8") as f:
        YAML().dump(recipe(path, options), f)
    command = [sys.executable, "-m", "tasks.data", "data.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(options.code.resolve()), "POLM_EVENTS": str(folder / "events")}
    before, start = os.times(), time.perf_counter()
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
        peak = said = 0
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(LOOKS)
            seconds = time.perf_counter() - start
            if seconds > said + SAID:
                said = int(seconds)
                say(f"{options.rows:,} rows: {said} s, {_step(folder / 'events')}, {peak >> 20} MB at most so far")
            if seconds > options.limit:
                process.kill()  # its processes end with it
                sys.exit(f"{options.rows:,} rows took longer than --limit {options.limit} s; {folder / 'log'} has more")
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        sys.exit((folder / "log").read_text(encoding="utf-8"))
    used = os.times()
    steps = json.loads((folder / ".polm/measured/out.json").read_text(encoding="utf-8"))
    report = json.loads((folder / "out/report.json").read_text(encoding="utf-8"))
    return {
        "rows": options.rows,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(
            used.children_user + used.children_system - before.children_user - before.children_system, 1
        ),
        "rows_per_s": round(options.rows / seconds),
        "peak_mb": round(peak / 1e6),
        "steps": {key.removesuffix("_seconds"): value for key, value in steps.items() if key.endswith("_seconds")},
        "counts": report["sets"]["sft"]["sources"]["rows"],
    }


def _step(events: Path) -> str:
    """Find what the stage does now, in the file that it tells its progress to."""
    try:
        return str(json.loads(events.read_text(encoding="utf-8").splitlines()[-1])["label"])
    except (OSError, IndexError, ValueError, KeyError):
        return "starting"


def main() -> None:
    """Print one line of JSON for each number of rows."""
    parser = argparse.ArgumentParser(prog="python -m bench.data")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000])
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--hashes", choices=["sha1", "rensa"], default="rensa")
    parser.add_argument("--shards", type=int, help="rows of a set from which it is written as shards")
    parser.add_argument("--plain", action="store_true", help="a recipe without the keys of scale")
    parser.add_argument("--code", type=Path, default=ROOT, help="checkout whose stage is run")
    parser.add_argument("--keep", type=Path, help="folder for rows, outputs and figures; a temporary one without")
    parser.add_argument("--limit", type=int, default=7_200, help="seconds of one run at most")
    parser.add_argument("--plot", type=Path, help="picture of rows a second and memory, of all figures in --keep")
    parser.add_argument("--against", choices=["datatrove", "text-dedup"], help="compare near-duplicates alone")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the other library")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.keep or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        figures = work / "figures.json"
        for count in options.rows:
            options.rows = count
            if options.against:
                path = write(work, options.rows, "jsonl")
                print(json.dumps(compared(path, options.against, options.python)), flush=True)
            else:
                (work / "events").unlink(missing_ok=True)
                found = measured(options, work)
                scale_plot.kept(figures, found)
                print(json.dumps(found), flush=True)
        if options.plot:
            if not figures.exists():
                sys.exit(f"{figures}: no figures; measure some numbers of --rows first")
            scale_plot.draw(json.loads(figures.read_text(encoding="utf-8")), options.plot)


if __name__ == "__main__":
    main()
