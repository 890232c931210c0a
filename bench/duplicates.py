"""Near-duplicates of the same rows by the data stage's MinHash and by datatrove's or text-dedup's, one process each.

    python -m bench.data --rows 100000 --against datatrove --python OTHER/bin/python
    python -m bench.data --rows 100000 --against text-dedup --python OTHER/bin/python

All take n-grams of five words and 112 hashes in 14 bands of 8, whose threshold is (1/14)**(1/8), 0.72. datatrove and
text-dedup take every pair that shares a band for a duplicate; the stage compares such a pair by all of its hashes.
Words are cut at white space by datatrove (its tokenizers of English are slower), at every sign that is no letter or
digit by text-dedup, by the stage as ever. datatrove hashes by SHA-1, since its xxHash takes text, which version 4 of
that package refuses; text-dedup by xxHash, the faster of its two. Measured are reading, sketches, bands and the list of
duplicates, of text-dedup also its writing of what is left, without the start of the interpreter.

Neither is part of the lock: `--python` names an interpreter that has it (`datatrove==0.10.1`, `text-dedup==0.4.0`).
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

NGRAM, BANDS, HASHES = 5, 14, 8
"""Words of an n-gram, bands, and hashes of each."""
BATCH = 256
"""Rows that the stage's sketches are made of at once."""
OURS = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
"""This process and those that it has waited for: `datasets`, below text-dedup, maps in another one."""
Pairs = list[tuple[int, int]]


def texts(path: Path) -> Iterator[str]:
    """Yield the text of each row of a JSONL file."""
    with path.open(encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            yield f"{row['question']} {row['answer']}"


def by_polm(path: Path, folder: Path) -> tuple[int, Pairs]:
    """Find duplicates as the data stage does: the number of rows, and pairs (duplicate, row that it repeats)."""
    import numpy as np

    from tasks.ingestion import minhash
    from tasks.ingestion.settings import NearDuplicates

    near = NearDuplicates(
        threshold=(1 / BANDS) ** (1 / HASHES), permutations=BANDS * HASHES, ngram=NGRAM, hashes="rensa"
    )
    sketches = minhash.Sketches(near, (BANDS, HASHES), 1)
    rows, count = texts(path), 0
    while batch := [[text] for text in islice(rows, BATCH)]:
        sketches.add(batch, [""] * len(batch))
        count += len(batch)
    sketches.write(folder / "0")
    return count, minhash.repeats([folder / "0"], np.zeros(0, dtype=np.int64), 40, near)


def by_datatrove(path: Path, folder: Path) -> tuple[int, Pairs]:
    """Find duplicates as datatrove does: the number of rows, and pairs of rows that share a band."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    config = minhash.MinhashConfig(
        n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=HASHES, hash_config=HashConfig(hash_fc="sha1")
    )
    sketches, bands = str(folder / "sketches"), str(folder / "bands")
    count = 0

    class Words(WordTokenizer):
        """Cuts at white space; punctuation is gone by then."""

        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    def documents() -> Iterator[Any]:
        nonlocal count
        for count, text in enumerate(texts(path), 1):
            yield Document(text=text, id=str(count))

    minhash.MinhashDedupSignature(sketches, config, language=Words()).run(documents())
    for band in range(BANDS):
        step = minhash.MinhashDedupBuckets(sketches, bands, config=config, only_dedup_in_index=False)
        step.run(None, band, BANDS)
    pairs: set[tuple[int, int]] = set()
    import numpy as np

    for file in sorted((folder / "bands").glob("*.dups")):
        found = np.fromfile(file, dtype="<u4").reshape(-1, 4)
        pairs.update(zip(found[:, 3].tolist(), found[:, 1].tolist(), strict=True))
    return count, sorted(pairs)


def by_text_dedup(path: Path, folder: Path) -> tuple[int, Pairs]:
    """Find duplicates as text-dedup does: the number of rows, and pairs (row, first row of its cluster)."""
    from text_dedup import minhash

    source = folder / "texts.jsonl"
    count = 0
    with source.open("w", encoding="utf-8") as f:
        for text in texts(path):
            f.write(json.dumps({"text": text}) + "\n")
            count += 1
    options = {
        "path": "json", "data_files": source, "split": "train", "cache_dir": folder / "cache",
        "output": folder / "left", "column": "text", "num_proc": 1, "hash_func": "xxh3",
        "ngram": NGRAM, "num_perm": BANDS * HASHES, "b": BANDS, "r": HASHES,
    }  # fmt: skip
    minhash.main.main([part for key, value in options.items() for part in (f"--{key}", str(value))], "", None, False)
    clusters = {row: minhash.uf.find(row) for row in list(minhash.uf.parent)}
    return count, sorted((row, first) for row, first in clusters.items() if row != first)


FINDERS = {"polm": by_polm, "datatrove": by_datatrove, "text-dedup": by_text_dedup}


def families(pairs: Pairs) -> dict[int, int]:
    """Give each row that is in a pair the first row that it is tied to."""
    parent: dict[int, int] = {}

    def find(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = row = parent[parent[row]]
        return row

    for pair in pairs:
        low, high = sorted(map(find, pair))
        parent[high] = low
    return {row: find(row) for row in list(parent)}


def compared(path: Path, other: str, python: str) -> dict[str, Any]:
    """Run both on a file of rows, and say how fast each was, what it held, and which duplicates both found.

    Args:
        path: a JSONL file with `question` and `answer`.
        other: `datatrove` or `text-dedup`.
        python: interpreter that has it.

    Returns:
        Figures of each by its name; under `duplicates` how many rows each would drop, and under `both` how many of
        them both would; under `shares` the rows of one that are tied to the same first row by the other, 0 to 1.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        for name, interpreter in (("polm", sys.executable), (other, python)):
            out = Path(scratch) / f"{name}.json"
            script = ["-m", "bench.duplicates"] if name == "polm" else [__file__]
            subprocess.run([interpreter, *script, name, str(path), str(out)], check=True)
            found[name] = json.loads(out.read_text(encoding="utf-8"))
    tied = {name: families(facts.pop("pairs")) for name, facts in found.items()}
    dropped = {name: {row for row, first in of.items() if row != first} for name, of in tied.items()}
    shares = {}
    for one, two in (("polm", other), (other, "polm")):
        same = [row for row in dropped[one] if tied[two].get(row, row) == tied[one][row]]
        shares[f"{one} in {two}"] = round(len(same) / max(1, len(dropped[one])), 5)
    return {
        **found,
        "ratio_of_rows_per_cpu_s": round(found["polm"]["rows_per_cpu_s"] / found[other]["rows_per_cpu_s"], 2),
        "duplicates": {name: len(rows) for name, rows in dropped.items()},
        "both": len(dropped["polm"] & dropped[other]),
        "shares": shares,
    }


def processor_seconds() -> float:
    """Add up the processor time of this process and of those it has waited for."""
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, OURS))


def main() -> None:
    """Measure one of them in this process, and write what was found."""
    name, path, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), processor_seconds()
        count, pairs = FINDERS[name](path, Path(folder))
        seconds, cpu = time.perf_counter() - start, processor_seconds() - cpu
    peak = 1024 * max(resource.getrusage(who).ru_maxrss for who in OURS)
    measured = {"rows_per_s": round(count / seconds), "rows_per_cpu_s": round(count / cpu), "peak_mb": peak // 10**6}
    out.write_text(json.dumps({**measured, "pairs": pairs}), encoding="utf-8")


if __name__ == "__main__":
    main()
