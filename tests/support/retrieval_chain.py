"""The stages from documents to rows with passages, small: chunks, an untrained encoder, its index, RAFT's rows."""

import shutil
from pathlib import Path
from typing import Any

from tasks import raft, rag_chunks, rag_index
from tasks.generators import facts
from tasks.retrieval import encoder, origins
from tasks.retrieval.scratch import Scratch
from tasks.stage import artifact
from tasks.stage.config import parse, read_yaml
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import REPO

TINY = REPO / "params" / "tiny"
PEOPLE = {"count": 16, "seed": 5}
TESTED = 4
"""People of the test."""


def settings(name: str, **changes: Any) -> dict[str, Any]:
    """A recipe file of `tiny`, with changes."""
    return read_yaml(TINY / f"{name}.yaml") | changes


def made(module: Any, path: str, values: dict[str, Any], out: str, **inputs: Path) -> Path:
    """Run a stage's `main` in this process, its output becoming an artifact with its lineage."""
    folder = Path("artifacts") / out
    manifests = {name: artifact.verify(place) for name, place in inputs.items()}
    identities = {name: manifest.digest for name, manifest in manifests.items()}
    name = module.__name__.removeprefix("tasks.")
    with artifact.writing(folder, stage=name, params="0" * 64, inputs=identities) as temp:
        params = Path("params/tiny") / path
        run = Run(temp, params, folder.name, Path(".checkpoints"), manifests, Progress(None), main_process=True)
        module.main(parse(params, values, module.Config), run, **inputs)
    return folder


def recipe() -> None:
    """Copy what an evaluation reads of the recipe into the working directory."""
    Path("params/tiny").mkdir(parents=True)
    shutil.copytree(TINY / "rag", "params/tiny/rag")
    shutil.copyfile(TINY / "graders.py", "params/tiny/graders.py")


def passages() -> Path:
    """The chunks of the people's documents."""
    values = settings("passages")
    values["sources"]["facts"]["options"] = PEOPLE
    return made(rag_chunks, "passages.yaml", values, "chunks/passages")


def untrained(chunks: Path, make: Any) -> Path:
    """An encoder with random weights."""
    from tasks.retrieval.chunks import read_chunks

    place, folder = Path("scratch"), Path("artifacts/models/retriever")
    place.mkdir()
    bert = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    source = origins.ScratchEncoder(scratch=Scratch(vocab_size=300, max_tokens=64, bert=bert))
    encoder.save(origins.fetch(source, [chunk.text for chunk in read_chunks(chunks)], 0, place), folder)
    make(folder, stage="retriever")
    return folder


def questions(make: Any) -> Path:
    """The questions about the people, as the data stage writes them."""
    folder = Path("artifacts/media/facts")
    rows = list(facts.questions("train", **PEOPLE, test=TESTED, wordings=1))
    prompts = [
        {"id": str(i), "prompt": [{"role": "user", "content": row.pop("question")}], **row}
        for i, row in enumerate(rows)
    ]
    artifact.write_jsonl(folder / "prompts" / "train.jsonl", prompts[10:])
    artifact.write_jsonl(folder / "prompts" / "validation.jsonl", prompts[:10])
    tests = [{"id": str(i), **row} for i, row in enumerate(facts.questions("test", **PEOPLE, test=TESTED, wordings=1))]
    artifact.write_jsonl(folder / "eval" / "facts.jsonl", tests)
    make(folder, stage="data")
    return folder


def index(chunks: Path, retriever: Path, data: Path, name: str = "index", **changes: Any) -> Path:
    """The index of the chunks."""
    return made(
        rag_index,
        "index.yaml",
        settings("index", **changes),
        f"indexes/{name}",
        chunks=chunks,
        encoder=retriever,
        data=data,
    )


def grounded(found: Path, data: Path) -> Path:
    """The questions with passages in their prompts."""
    return made(raft, "grounded.yaml", settings("grounded"), "media/grounded", index=found, data=data)
