"""Small artifacts of retrieval: chunks of invented people, questions about them, and an encoder with random weights."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.generators import facts
from tasks.retrieval import encoder as encoders
from tasks.retrieval import lexical
from tasks.retrieval.chunks import Chunk, write_chunks
from tasks.stage import artifact

LEXICAL = lexical.LexicalSettings(method="lucene", k1=1.2, b=0.5, words=r"\w+", lowercase=True, stopwords=[])
PEOPLE, SEED, TEST, VALIDATION = 24, 3, 6, 4
"""People in the documents, the seed of their names and facts, and how many are in each held-out part."""
FUSION: dict[str, Any] = {"depth": 20, "lexical_weights": [0.0, 0.5, 1.0], "rrf_c": 60, "metric": "ndcg@10"}
SCRATCH: dict[str, Any] = {
    "vocab_size": 300,
    "max_tokens": 64,
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    },
}


def chunks_of(texts: Sequence[tuple[str, str]]) -> list[Chunk]:
    """Make chunks of (document, text), sorted as the chunker does."""
    return [
        Chunk(f"{at:016x}", document, document.split("/")[0], (), 0, len(text), text)
        for at, (document, text) in enumerate(sorted(texts, key=lambda one: one[0]))
    ]


def write(chunks: Sequence[Chunk], folder: Path, make_artifact: Callable[..., Any]) -> Path:
    """Write an artifact of chunks, as far as a retriever and an index read it."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True)
    write_chunks(chunks, folder)
    names = sorted({chunk.document for chunk in chunks})
    parquet.write_table(pyarrow.table({"id": names}), folder / "documents.parquet")
    lexical.build([chunk.text for chunk in chunks], folder / "lexical", LEXICAL)
    artifact.write_json(folder / "report.json", {"chunks": len(chunks)})
    make_artifact(folder, stage="rag_chunks")
    return folder


def people() -> list[Chunk]:
    """A chunk for each fact about each invented person."""
    invented = facts.people(PEOPLE, SEED)
    return chunks_of([(one.document, text) for one in invented for text in one.sentences.values()])


def write_questions(folder: Path, make_artifact: Callable[..., Any]) -> Path:
    """Write a data artifact of questions about them, as the data stage does."""
    asked = list(facts.questions("train", PEOPLE, SEED, TEST, 2))
    held_out = {one.name for one in facts.people(PEOPLE, SEED)[:VALIDATION]}
    for split in ("train", "validation"):
        rows = [row for row in asked if (row["subject"] in held_out) == (split == "validation")]
        prompts = [
            {"id": f"{split}{at}", "prompt": [{"role": "user", "content": row["question"]}], **row}
            for at, row in enumerate(rows)
        ]
        artifact.write_jsonl(folder / "prompts" / f"{split}.jsonl", prompts)
    tested = [{"id": f"test{at}", **row} for at, row in enumerate(facts.questions("test", PEOPLE, SEED, TEST, 1))]
    tested.append({"id": "nobody", "question": "Where does Nobody live?", "answer": "", "document": "", "quote": ""})
    artifact.write_jsonl(folder / "eval" / "facts.jsonl", tested)
    make_artifact(folder, stage="data")
    return folder


def save_encoder(folder: Path, make_artifact: Callable[..., Any], seed: int = 0) -> Path:
    """Write an encoder with random weights, as the retriever's stage does."""
    from tasks.retrieval import encoder, scratch

    place = folder.with_name(folder.name + ".made")
    place.mkdir(parents=True)
    made = scratch.build(scratch.Scratch(**SCRATCH), [chunk.text for chunk in people()], seed, place)
    encoder.save(made, folder)
    make_artifact(folder, stage="retriever")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_inputs(place: Path, make_artifact: Any) -> dict[str, Path]:
    """Write chunks, questions and an encoder, as an index takes them."""
    return {
        "chunks": write(people(), place / "chunks", make_artifact),
        "data": write_questions(place / "data", make_artifact),
        "encoder": save_encoder(place / "encoder", make_artifact),
    }


def note_embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that fills with the chunks that are given to an encoder from here on."""
    texts: list[str] = []
    embed = encoders.embed

    def noted(model: Any, batch: Sequence[str], size: int, *, queries: bool) -> Any:
        if not queries:
            texts.extend(batch)
        return embed(model, batch, size, queries=queries)

    monkeypatch.setattr(encoders, "embed", noted)
    return texts
