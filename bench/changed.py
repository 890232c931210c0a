"""One changed document: seconds until both indexes hold it, besides the imports, by the stages themselves.

    python -m bench.retrieval --changed --chunks 100000 --documents 1000

A folder of documents becomes passages and an index by `python -m tasks.rag_chunks` and `python -m tasks.rag_index`, as
`polm run` starts them; then a word of one document changes, and both run again. A document is a text file of
paragraphs, each of 64 made-up words and a passage of its own; the fusion is chosen on 200 questions. The encoder has
one layer, random weights and vectors of 384 dimensions, and the vectors of all passages but the changed one are drawn
and put into its store: how long an encoder takes is no part of what is measured. Seconds are those of the stages' own
measurements (`.polm/measured/`), from their first line to the renamed folder, less `import_seconds`; `rest` is what no
part is named for: the hashes of the inputs and of the artifact, and its way to the disk. `wall` is by the clock on the
wall, `cpu` by the processor's: on a busy machine only the latter says something.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import chdir
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tasks.retrieval import embeddings, encoder, scratch
from tasks.retrieval.chunks import read_texts
from tasks.stage import artifact
from tasks.stage.lifecycle import read_measurements

REPO = Path(__file__).parent.parent
WORDS, ASKED, QUESTIONS, DIMENSIONS = 64, 9, 200, 384
"""Words of a passage and of a question, number of questions at most, and dimensions of a vector."""
SETTLED = 2.1
"""Seconds after which the times of a file are trusted (`tasks/retrieval/cache.py`)."""
CHUNKS, INDEX, ENCODER, DATA = (Path("artifacts", name) for name in ("chunks", "index", "encoder", "data"))
Measured = dict[str, float]
"""Names of measurements to their values."""
STAGES = ("rag_chunks", "rag_index")
_BY_CPU = "import runpy, sys, time; time.perf_counter = time.process_time; "
CLOCKS = {"wall": ["-m"], "cpu": ["-c", f"{_BY_CPU}runpy.run_module(sys.argv.pop(1), run_name='__main__')"]}
"""Clock to what makes Python run a module by it."""
PASSAGES: dict[str, Any] = {
    "seed": 0,
    "threads": 1,
    "unreadable": "refuse",
    "report_examples": 5,
    "bounds": {"max_bytes": 10_000_000, "max_unpacked_bytes": 10_000_000, "max_characters": 10_000_000},
    "chunk": {"words": WORDS, "overlap": 0, "characters": 2_000, "join": False},
    "index_titles": True,
    "lexical": {"method": "lucene", "k1": 1.5, "b": 0.75, "words": r"\w+", "lowercase": True, "stopwords": []},
    "sources": {
        "docs": {
            "folder": "docs",
            "files": ["**/*.txt"],
            "sha256": None,
            "format": None,
            "within": None,
            "licence": "CC0-1.0",
        }
    },
}
SEARCH: dict[str, Any] = {
    "seed": 0,
    "threads": 1,
    "dataset": "prompts",
    "embed_titles": False,
    "batch_size": 8,
    "dimensions": None,
    "dense": {"kind": "flat", "shard_rows": 25_000},
    "fusion": {"depth": 50, "lexical_weights": [at / 10 for at in range(11)], "rrf_c": 60, "metric": "ndcg@10"},
}
SHAPE: dict[str, Any] = {
    "vocab_size": 2_000,
    "max_tokens": 64,
    "bert": {
        "hidden_size": DIMENSIONS,
        "num_hidden_layers": 1,
        "num_attention_heads": 6,
        "intermediate_size": 2 * DIMENSIONS,
    },
}
"""Settings of both stages, and of the encoder."""


def measure(
    texts: Iterable[str], chunks: int, documents: int, folder: Path, repeats: int
) -> dict[str, dict[str, Measured]]:
    """Measure both stages after one document has changed.

    Args:
        texts: of the passages, at least `chunks`, each of words between blanks.
        chunks: number of passages.
        documents: number of files that they lie in, of `chunks // documents` passages each.
        folder: empty, for all files.
        repeats: documents that change, one after the other, for either clock; the shortest of a stage's runs counts.

    Returns:
        Clock (`wall`, `cpu`) to stage (`rag_chunks`, `rag_index`) to what it measured: `seconds` besides the imports,
        their parts, `peak_memory_bytes`, and the counts of what was read and embedded.
    """
    with chdir(folder):
        _write(iter(texts), chunks, documents)
        time.sleep(SETTLED)
        _stage("rag_chunks")
        _fill()
        _stage("rag_index")
        runs: dict[tuple[str, str], list[Measured]] = {(clock, stage): [] for clock in CLOCKS for stage in STAGES}
        for number in range(repeats * len(CLOCKS)):
            path = Path("docs", f"{number}.txt")
            _, _, rest = path.read_text(encoding="utf-8").partition(" ")
            path.write_text(f"changed{number} {rest}", encoding="utf-8")
            time.sleep(SETTLED)
            clock = list(CLOCKS)[number % len(CLOCKS)]
            for stage in STAGES:
                runs[clock, stage].append(_stage(stage, clock))
    return {
        clock: {stage: min(runs[clock, stage], key=lambda one: one["seconds"]) for stage in STAGES} for clock in CLOCKS
    }


def _write(texts: Iterator[str], chunks: int, documents: int) -> None:
    """Write documents, both settings, the encoder, and questions about the first passages of documents."""
    Path("docs").mkdir()
    some: list[str] = []
    rows: list[dict[str, Any]] = []
    draw = np.random.default_rng(2)
    for number in range(documents):
        paragraphs = list(islice(texts, chunks // documents))
        Path("docs", f"{number}.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
        if number < QUESTIONS:
            words = paragraphs[0].split()
            quote, asked = " ".join(words[1:]), " ".join(draw.permutation(words)[:ASKED])
            some.append(paragraphs[0])
            prompt = [{"role": "user", "content": asked}]
            rows.append({"id": str(number), "prompt": prompt, "document": f"docs/{number}.txt", "quote": quote})
    Path("params").mkdir()
    artifact.write_json(Path("params/passages.yaml"), PASSAGES)
    artifact.write_json(Path("params/index.yaml"), SEARCH)
    artifact.write_jsonl(DATA / "prompts/validation.jsonl", rows)
    Path("made").mkdir()
    encoder.save(scratch.build(scratch.Scratch(**SHAPE), some, 0, Path("made")), ENCODER)
    for made in (DATA, ENCODER):
        files = {str(path): artifact.sha256(made / path) for path in encoder.files(made)}
        manifest = artifact.Manifest(stage="bench", params="0" * 64, inputs={}, files=files)
        artifact.write_json(made / artifact.MANIFEST, manifest.model_dump())


def _fill() -> None:
    """Draw the vectors of all passages, and keep them as the index's stage would."""
    draw = np.random.default_rng(3)

    def drawn(batch: Sequence[str]) -> Any:
        return encoder.unit(draw.standard_normal((len(batch), DIMENSIONS), dtype=np.float32))

    name = embeddings.name(encoder.digest(ENCODER), SEARCH["batch_size"], SEARCH["threads"])
    embeddings.vectors([text.text for text in read_texts(CHUNKS)], DIMENSIONS, name, drawn)


def _stage(name: str, clock: str = "wall") -> Measured:
    """Run a stage as `polm run` does, and return what it measured, with `rest` and without the imports."""
    flags = {
        "rag_chunks": ["params/passages.yaml", "--out", CHUNKS],
        "rag_index": ["params/index.yaml", "--chunks", CHUNKS, "--encoder", ENCODER, "--data", DATA, "--out", INDEX],
    }
    command = [sys.executable, *CLOCKS[clock], f"tasks.{name}", *map(str, flags[name])]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"tasks.{name} ended with {done.returncode}:\n{done.stderr}")
    measured: Measured = read_measurements(CHUNKS if name == "rag_chunks" else INDEX)
    measured["seconds"] -= measured.pop("import_seconds")
    parts = sum(value for key, value in measured.items() if key.endswith("_seconds"))
    return measured | {"rest_seconds": measured["seconds"] - parts}
