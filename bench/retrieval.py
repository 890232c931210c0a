"""Retrieval at scale: seconds to build an index, its memory, and the time of a search.

    python -m bench.retrieval --chunks 100000
    python -m bench.retrieval --chunks 20000 --only dense --lancedb     # beside FAISS, a table of LanceDB
    python -m bench.retrieval --chunks 100000 --changed     # seconds of both stages after one document has changed
    python -m bench.retrieval --chunks 4000 --only shards               # embedding by one stage and by two at once

Each half runs in a process of its own, so that its peak of memory is its own; one thread; a chunk has 64 words, a
question nine of one chunk. The lexical half is of made-up text by Zipf's law, the dense half of vectors of actual text
(`bench/lsa.py`), a minute or two in the making; `--vectors` keeps them in a file, or takes them from it. `peak` holds
Python, the libraries and the text as well; `before` is the peak without the index. `p95_ms` is by the clock on the
wall, `p95_cpu_ms` by the thread's own: on a busy machine only the latter says something. What `--changed` measures,
says `bench/changed.py`.
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
VECTORS = "POLM_BENCH_VECTORS"
"""Variable with the file of the vectors, for the process of the dense half."""
LANCEDB = "POLM_BENCH_LANCEDB"
"""Variable that is `1` where the dense half measures LanceDB too."""


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


CELLS, PROBES = 1_024, (8, 16, 32, 48, 64, 96, 128)
"""Cells of the inverted file, and how many of them are tried."""
ENOUGH = 0.95
"""Share of exact search's ten best that an inverted file has to find."""


def dense(chunks: int, folder: Path) -> dict[str, float]:
    """Build the dense index by vectors of actual text, exact and in cells, and search it."""
    from bench.lsa import DIMENSIONS, QUESTIONS
    from tasks.retrieval.dense import Dense, build
    from tasks.retrieval.dense_settings import Flat, Ivf, Settings

    path = Path(os.environ.get(VECTORS) or folder / "vectors.npy")
    if not path.exists():
        made = [sys.executable, "-m", "bench.lsa", "--chunks", str(chunks), "--out", str(path)]
        subprocess.run(made, check=True)  # by itself, for its peak of memory is not the index's
    vectors = np.load(path, mmap_mode="r")
    asked, rest = np.array(vectors[:QUESTIONS:2]), vectors[QUESTIONS : QUESTIONS + chunks]
    if len(rest) < chunks:
        raise SystemExit(f"{path} has {len(rest)} chunks; ask for no more, or delete it")
    before = peak_memory()
    shape = {"shard_rows": 25_000, "train_rows": 40 * CELLS, "iterations": 10, "nlist": CELLS}
    measured: dict[str, float] = {"before_mb": before / 1e6}
    kinds: dict[str, Settings] = {
        "flat": Flat(kind="flat", shard_rows=25_000),
        "ivf": Ivf(kind="ivf", codes="int8", **shape, nprobe=1),
    }
    for name, settings in kinds.items():
        start, cpu = time.perf_counter(), time.process_time()
        (folder / name).mkdir()
        build(lambda start, end: np.array(rest[start:end]), chunks, DIMENSIONS, settings, folder / name, seed=0)
        measured[f"{name}_build_s"] = time.perf_counter() - start
        measured[f"{name}_build_cpu_s"] = time.process_time() - cpu
        measured[f"{name}_build_peak_mb"] = peak_memory() / 1e6
    truth = Dense.open(folder / "flat")
    right, times = _searched(truth, asked)
    measured |= {f"flat_{key}": value for key, value in times.items()}
    if os.environ.get(LANCEDB) == "1":
        measured |= _lancedb(rest, chunks, folder, asked, right)
    for probes in PROBES:
        index = Dense.open(folder / "ivf", probes)
        rows, times = _searched(index, asked)
        recall = float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(rows, right, strict=True)]))
        if recall >= ENOUGH or probes == PROBES[-1]:
            measured |= {"ivf_nprobe": probes, "ivf_recall@10": recall}
            return measured | {f"ivf_{key}": value for key, value in times.items()}
    raise AssertionError


def _lancedb(rest: Any, chunks: int, folder: Path, asked: Any, right: list[list[int]]) -> dict[str, float]:
    """Measure LanceDB: its vectors written, its table made when first opened, opened again, and searched."""
    import lancedb  # noqa: F401 - its import takes seconds, which are no part of what is measured

    from bench.lsa import DIMENSIONS
    from tasks.retrieval import lance
    from tasks.retrieval.dense import Dense, build
    from tasks.retrieval.dense_settings import LanceDb

    place, tables = folder / "lancedb", folder / "tables"
    place.mkdir()
    seconds = [time.perf_counter()]
    settings = LanceDb(kind="lancedb", shard_rows=25_000)
    build(lambda start, end: np.array(rest[start:end]), chunks, DIMENSIONS, settings, place, seed=0)
    seconds.append(time.perf_counter())
    for _ in range(2):
        table = Dense(lance.LanceTable.open(place, tables))
        seconds.append(time.perf_counter())
    rows, times = _searched(table, asked)
    took = dict(zip(("build_s", "table_s", "open_s"), np.diff(seconds).tolist(), strict=True))
    recall = float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(rows, right, strict=True)]))
    return {f"lancedb_{key}": value for key, value in {**took, "recall@10": recall, **times}.items()}


def _searched(index: Any, asked: Any) -> tuple[list[list[int]], dict[str, float]]:
    """Search for each vector by itself, after one that does not count; return rows and times."""
    rows, took = [], []
    for query in [asked[0], *asked]:
        start, cpu = time.perf_counter(), time.thread_time()
        _, found = index.search(query[None], 10)
        took.append((time.perf_counter() - start, time.thread_time() - cpu))
        rows.append(found[0].tolist())
    wall, of_thread = (1e3 * np.array(seconds) for seconds in zip(*took[1:], strict=True))
    return rows[1:], {
        "p50_ms": float(np.percentile(wall, 50)),
        "p95_ms": float(np.percentile(wall, 95)),
        "p50_cpu_ms": float(np.percentile(of_thread, 50)),
        "p95_cpu_ms": float(np.percentile(of_thread, 95)),
    }


HALVES: dict[str, Callable[[int, Path], dict[str, float]]] = {"lexical": lexical, "dense": dense}
"""Name to function: takes the number of chunks and an empty folder, returns what is printed."""


def _changed(chunks: int, documents: int, repeats: int) -> None:
    """Print what both stages take after one document has changed."""
    from bench import changed

    with tempfile.TemporaryDirectory(prefix="polm-bench-") as folder:
        clocks = changed.measure(texts(chunks), chunks, documents, Path(folder), repeats)
    for clock, stages in clocks.items():
        for stage, measured in stages.items():
            print(f"{clock:<4} {stage:<10} " + "  ".join(f"{name} {value:.4g}" for name, value in measured.items()))
        print(f"{clock:<4} {'both':<10} seconds {sum(measured['seconds'] for measured in stages.values()):.4g}")


def by_shards(chunks: int, folder: Path) -> dict[str, float]:
    """Embed the chunks by one stage, and by two at once."""
    from bench.shards import measure

    return measure(list(texts(chunks)), folder)


ALONE: dict[str, Callable[[int, Path], dict[str, float]]] = {"shards": by_shards}
"""What runs only where `--only` names it, since it takes long for many chunks."""


def main() -> None:
    """Run each half in a process of its own, and print what it measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval", description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=100_000, help="a multiple of 1000")
    parser.add_argument("--half", choices=sorted(HALVES | ALONE), help="run only this half, and print JSON")
    parser.add_argument("--only", choices=sorted(HALVES | ALONE), help="leave the others out")
    parser.add_argument("--vectors", type=Path, help="file of the dense half's vectors; made where it is missing")
    parser.add_argument("--lancedb", action="store_true", help="measure LanceDB too; wants the extra polm[lancedb]")
    parser.add_argument("--changed", action="store_true", help="measure both stages after one document has changed")
    parser.add_argument("--documents", type=int, default=1_000, help="files that the chunks of --changed lie in")
    parser.add_argument("--repeats", type=int, default=3, help="documents of --changed that change")
    args = parser.parse_args()
    if args.changed:
        _changed(args.chunks, args.documents, args.repeats)
        return
    if args.half:
        with tempfile.TemporaryDirectory(prefix="polm-bench-") as folder:
            print(json.dumps((HALVES | ALONE)[args.half](args.chunks, Path(folder))))
        return
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    one |= {VECTORS: str(args.vectors or ""), LANCEDB: str(int(args.lancedb))}
    for half in HALVES if args.only is None else [args.only]:
        command = [sys.executable, "-m", "bench.retrieval", "--chunks", str(args.chunks), "--half", half]
        done = subprocess.run(command, env=os.environ | one, stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))  # FAISS talks
        print(f"{half:<8} " + "  ".join(f"{name} {value:.4g}" for name, value in measured.items()), flush=True)


if __name__ == "__main__":
    main()
