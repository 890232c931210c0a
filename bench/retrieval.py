"""Retrieval at scale, on made-up text of Zipf's law: seconds to build an index, its memory, and the time of a search.

    python -m bench.retrieval --chunks 100000

Each half runs in a process of its own, so that its peak of memory is its own; one thread; a chunk has 64 words, a
question nine of one chunk. `peak` holds Python, the libraries and the text as well; `before` is the peak without the
index. Times are by the clock on the wall, and with `cpu` by the processor's: on a busy machine only the latter say
something. The time to build includes that to make the texts up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks.stage.lifecycle import peak_memory

WORDS, VOCABULARY, ASKED = 64, 60_000, 9
"""Words of a chunk, different words at most, and words of a question."""
QUESTIONS = 500
BATCH = 1_000
"""Chunks that are drawn at once."""


def numbers(chunks: int, seed: int) -> Iterator[Any]:
    """Yield arrays [BATCH, WORDS] of numbers of words, by Zipf's law with exponent 1.1; few of them are the rarest."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, VOCABULARY + 1) ** 1.1
    edges = np.cumsum(weights / weights.sum())
    for _ in range(0, chunks, BATCH):
        yield np.minimum(np.searchsorted(edges, rng.random((BATCH, WORDS))), VOCABULARY - 1)


def texts(chunks: int) -> Iterator[str]:
    """Yield the chunks' texts, the same ones at every call."""
    for batch in numbers(chunks, seed=0):
        yield from (" ".join(f"w{word}" for word in row) for row in batch)


def questions(chunks: int) -> list[tuple[int, str]]:
    """Draw questions of words that stand in one chunk, each with that chunk's row."""
    rng = np.random.default_rng(1)
    asked = sorted(int(row) for row in rng.choice(chunks, size=min(QUESTIONS, chunks), replace=False))
    wanted = set(asked)
    found = {row: text for row, text in enumerate(texts(chunks)) if row in wanted}
    return [(row, " ".join(rng.permutation(found[row].split())[:ASKED])) for row in asked]


def lexical(chunks: int, folder: Path) -> dict[str, float]:
    """Build the lexical index and search it."""
    from tasks.retrieval.lexical import Lexical, LexicalSettings, build

    settings = LexicalSettings(method="lucene", k1=1.5, b=0.75, words=r"\w+", lowercase=True, stopwords=[])
    asked = questions(chunks)
    before = peak_memory()
    start, cpu = time.perf_counter(), time.process_time()
    build(texts(chunks), folder / "lexical", settings)
    built, built_cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_memory()
    start = time.perf_counter()
    index = Lexical.open(folder / "lexical")
    opened = time.perf_counter() - start
    took, right = [], 0
    for row, question in asked:
        start, cpu = time.perf_counter(), time.thread_time()
        _, rows = index.search([question], 10)
        took.append((time.perf_counter() - start, time.thread_time() - cpu))
        right += row in rows[0]
    wall, of_thread = (1e3 * np.array(seconds) for seconds in zip(*took, strict=True))
    return {
        "build_s": built,
        "build_cpu_s": built_cpu,
        "before_mb": before / 1e6,
        "peak_mb": peak / 1e6,
        "disk_mb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        "open_ms": opened * 1e3,
        "p50_ms": float(np.percentile(wall, 50)),
        "p95_ms": float(np.percentile(wall, 95)),
        "p50_cpu_ms": float(np.percentile(of_thread, 50)),
        "p95_cpu_ms": float(np.percentile(of_thread, 95)),
        "recall@10": right / len(asked),
    }


HALVES: dict[str, Callable[[int, Path], dict[str, float]]] = {"lexical": lexical}
"""Name to function: takes the number of chunks and an empty folder, returns what is printed."""


def main() -> None:
    """Run each half in a process of its own, and print what it measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval", description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=100_000, help="a multiple of 1000")
    parser.add_argument("--half", choices=sorted(HALVES), help="run only this half, and print JSON")
    args = parser.parse_args()
    if args.half:
        with tempfile.TemporaryDirectory(prefix="polm-bench-") as folder:
            print(json.dumps(HALVES[args.half](args.chunks, Path(folder))))
        return
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    for half in HALVES:
        command = [sys.executable, "-m", "bench.retrieval", "--chunks", str(args.chunks), "--half", half]
        done = subprocess.run(command, env=os.environ | one, stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(done.stdout)
        print(f"{half:<8} " + "  ".join(f"{name} {value:.4g}" for name, value in measured.items()), flush=True)


if __name__ == "__main__":
    main()
