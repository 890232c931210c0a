"""Embedding by shards: seconds of one stage for all documents, and of two stages at once with half of them each.

    python -m bench.retrieval --only shards --chunks 4000

The stages are the pipeline's own (`python -m tasks.rag_embed`), with one thread each and a store of vectors of their
own. They run twice, in the order whole, halves, halves, whole, and the faster counts, so that what else the machine
does weighs on both. `whole_embed` and `halves_embed` are seconds of embedding, of two at once those of the slower;
`_stage` are seconds of a stage from start to end with its imports, `_stage_cpu` the processor time of the same. Each
`ratio` is whole by halves: 2 would be twice as fast. On a busy machine the clock on the wall says how it shares its
cores out; the ratio of processor times is what two idle cores would give. The encoder is small and untrained, the text
made up by Zipf's law.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.retrieval import encoder, scratch, shards
from tasks.retrieval.chunks import Chunk, write_chunks
from tasks.stage import artifact, lifecycle
from tasks.stage.config import read_yaml

SETTINGS = "seed: 0\nthreads: 1\nembed_titles: false\nbatch_size: 32\n"
BERT = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
VOCABULARY, TOKENS = 2_000, 128
"""Tokens at most: of the encoder, and of a text that it reads."""
LEARNT = 1_000
"""Texts that the tokenizer is made from."""
DOCUMENT = 10
"""Chunks of a document."""
ROOT = Path(__file__).resolve().parent.parent


def measure(texts: Sequence[str], folder: Path) -> dict[str, float]:
    """Embed texts as one shard and as two, in an empty folder.

    Raises:
        AssertionError: the two shards have other vectors than the one.
    """
    os.chdir(folder)  # a stage's state is in the working directory
    with artifact.writing(Path("chunks"), stage="rag_chunks", params="0" * 64, inputs={}) as out:
        write_chunks(chunks_of(texts), out)
    with artifact.writing(Path("encoder"), stage="retriever", params="0" * 64, inputs={}) as out:
        Path("scratch").mkdir()
        shape = scratch.Scratch(vocab_size=VOCABULARY, max_tokens=TOKENS, bert=BERT)
        encoder.save(scratch.build(shape, texts[:LEARNT], 0, Path("scratch")), out)
    whole, halves = ["bench-1of1"], ["bench-1of2", "bench-2of2"]
    runs: dict[str, list[dict[str, float]]] = {"whole": [], "halves": []}
    for at, name in enumerate(("whole", "halves", "halves", "whole")):
        runs[name].append(_at_once(whole if name == "whole" else halves, folder / f"run{at}"))
    compare([folder / "run0" / name for name in whole], [folder / "run1" / name for name in halves])
    best = {key: {name: min(run[key] for run in runs[name]) for name in runs} for key in runs["whole"][0]}
    measured: dict[str, float] = {"cores": len(os.sched_getaffinity(0))}
    for key, of in best.items():
        measured |= {f"{name}_{key}": seconds for name, seconds in of.items()}
        measured[f"ratio_{key}"] = of["whole"] / of["halves"]
    return measured


def chunks_of(texts: Sequence[str]) -> list[Chunk]:
    """Deal texts to documents, in order."""
    names = [f"made/{at // DOCUMENT:06}.txt" for at in range(len(texts))]
    return [Chunk(f"{at:016x}", names[at], "made", (), 0, len(text), text) for at, text in enumerate(texts)]


def _at_once(names: Sequence[str], folder: Path) -> dict[str, float]:
    """Run stages beside each other, each in a folder of its own.

    Returns:
        Seconds of the slowest: of embedding, of the whole stage by the clock on the wall, and of its processor time.
    """
    running = []
    for name in names:
        place = folder / name
        place.mkdir(parents=True)
        (place / "bench.yaml").write_text(SETTINGS, encoding="utf-8")
        command = [sys.executable, "-m", "tasks.rag_embed", "bench.yaml", "--chunks", "../../chunks"]
        command += ["--encoder", "../../encoder", "--out", name]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "POLM_EVENTS": os.devnull}
        with (place / "log").open("w") as log:
            running.append(subprocess.Popen(command, cwd=place, env=environment, stderr=log))
    used = []
    for process in running:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        used.append(usage.ru_utime + usage.ru_stime)
    for name, process in zip(names, running, strict=True):
        if process.returncode:
            said = (folder / name / "log").read_text(encoding="utf-8")[-2_000:]
            raise SystemExit(f"{name} ended with exit code {process.returncode}, and said last:\n{said}")
    measured = [read_yaml(folder / name / lifecycle.measurements_path(Path(name))) for name in names]
    return {
        "embed": max(one["embed_seconds"] for one in measured),
        "stage": max(one["seconds"] for one in measured),
        "stage_cpu": max(used),
    }


def compare(whole: Sequence[Path], halves: Sequence[Path]) -> None:
    """Check that both ways lead to the same vectors. Raises AssertionError."""
    one, two = (
        {
            key.tobytes(): vector.tobytes()
            for folder in folders
            for key, vector in zip(
                np.load(folder / folder.name / shards.KEYS), np.load(folder / folder.name / shards.VECTORS), strict=True
            )
        }
        for folders in (whole, halves)
    )
    assert one == two, "two shards have other vectors than one"
