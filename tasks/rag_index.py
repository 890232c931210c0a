"""The index of chunks: their vectors, the lexical index, and how both rankings become one. Trains nothing.

Each chunk and each question is embedded once by one encoder on one machine (`tasks/retrieval/embeddings.py`), or was on
several by stages of their own (`tasks/rag_embed.py`); the index is built anew from the vectors, so that a chunk that is
gone is gone, and equal chunks give equal bytes whatever was embedded before, and where. The fusion is chosen on the
validation questions (`tasks/retrieval/fusion.py`), and the probability that a hit answers is fitted on them
(`tasks/retrieval/relevance.py`). What it leaves out: updating an index in place, which drifts from one that is built.
"""

import gc
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.retrieval import chunks as stored
from tasks.retrieval import embedded, embeddings, lance, questions, relevance, shards
from tasks.retrieval import encoder as encoders
from tasks.retrieval.dense import Dense, build
from tasks.retrieval.dense_settings import LanceDb, Settings
from tasks.retrieval.fusion import FusionSettings, Leg, choose
from tasks.retrieval.index import ENCODER, FILE, LEXICAL, Description, legs
from tasks.retrieval.lexical import Lexical
from tasks.stage import artifact
from tasks.stage.config import StageConfig
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run, stage

log = logging.getLogger("polm")
DOCUMENTS = "documents.parquet"
COPIED = (stored.FILE, DOCUMENTS)
"""Files of the chunks' artifact that the index keeps, so that it needs nothing beside itself."""


class Config(StageConfig):
    """`params/<recipe>/<index>.yaml`."""

    dataset: str
    """Set of the data artifact on whose validation questions the fusion is chosen, e.g. `prompts`."""
    embed_titles: bool
    """Whether the headings above a chunk are embedded with it, as the encoder was trained."""
    batch_size: int = Field(gt=0)
    """Chunks that are embedded at a time. Part of the recipe because it changes the bits."""
    dimensions: int | None = Field(gt=0)
    """Leading dimensions of the vectors that are kept (Matryoshka, arXiv:2205.13147); null keeps all."""
    dense: Settings
    """How vectors are stored and searched."""
    fusion: FusionSettings
    """What is tried to fuse both rankings."""


def main(config: Config, run: Run, *, chunks: Path, encoder: Path, data: Path, vectors: Path | None = None) -> None:
    """Write an index that `Index.open` reads, and `report.json`: what was read, kept and left out.

    `vectors` is a folder of shards (`tasks/rag_embed.py`); the index is the same with them, some of them, and none.
    """
    if isinstance(config.dense, LanceDb):
        lance.require()
    with run.timed("import"):
        import bm25s  # noqa: F401
        import faiss
        import pyarrow.parquet
        import sentence_transformers  # noqa: F401

        pyarrow.array([])  # looks for pandas, once
        gc.freeze()  # what the libraries are made of is not searched for garbage, again and again, among the chunks
    faiss.omp_set_num_threads(config.threads)
    with run.timed("chunks"):
        found = stored.read_texts(chunks)
    if not found:
        raise DataError(f"{chunks / stored.FILE}: no chunk; {chunks / 'report.json'} says where the documents went")
    with run.timed("questions"):
        asked, counts = questions.read(questions.training_file(data, config.dataset, "validation"), found)
    embedded.check_titles(config.embed_titles, run.params_file, encoder)
    with run.timed("load"):
        model = encoders.load(encoder)
    dimensions = _dimensions(config, run, model)
    with run.timed("embed"):
        identity = encoders.digest(encoder)
        texts = [encoders.passage(chunk, config.embed_titles) for chunk in found]
        known = _vectors(config, run, model, identity, texts, vectors)
        queries = _queries(config, model, identity, [question.text for question in asked])
    log.info("%d chunks: %d embedded, the other texts known", len(found), known.embedded)
    run.measure(embedded=known.embedded)

    def take(start: int, end: int) -> Any:
        return encoders.unit(known.take(start, end), dimensions)

    with run.timed("build"):
        build(take, len(found), dimensions, config.dense, run.out, config.seed)
    with run.timed("copy"):
        for name in COPIED:
            shutil.copyfile(chunks / name, run.out / name)
        shutil.copytree(chunks / LEXICAL, run.out / LEXICAL)
        encoders.copy(encoder, run.out / ENCODER)
    with run.timed("fusion"):
        vectors_asked = encoders.unit(queries.take(0, len(asked)), dimensions)
        ranked = _ranked(run.out, [question.text for question in asked], vectors_asked, config.fusion.depth)
        of_question = dict(zip((question.id for question in asked), ranked, strict=True))
        gold = {question.id: question.gold for question in asked}
        chosen, tried = choose(config.fusion, of_question, gold)
        fitted = relevance.fit(of_question, gold, chosen)
    described = Description(
        chunks=len(found),
        dimensions=dimensions,
        encoder=identity,
        embed_titles=config.embed_titles,
        dense=config.dense.model_dump(mode="json"),
        fusion=chosen,
        tried=tried,
        questions=counts,
        relevance=fitted,
    )
    artifact.write_json(run.out / FILE, described.model_dump(mode="json"))
    different = len({chunk.text for chunk in found})
    artifact.write_json(run.out / "report.json", {"chunks": len(found), "texts": different, "questions": counts})


def _dimensions(config: Config, run: Run, model: Any) -> int:
    """Return how many dimensions are kept. Raises ConfigError where the encoder has fewer."""
    width: int = model.get_embedding_dimension()
    if config.dimensions is not None and config.dimensions > width:
        raise ConfigError(f"{run.params_file}: dimensions is {config.dimensions}, and the encoder has {width}")
    return config.dimensions or width


def _vectors(
    config: Config, run: Run, model: Any, identity: str, texts: Sequence[str], vectors: Path | None
) -> embeddings.Vectors | shards.Known:
    """Take the vectors of the shards, if there are any, and embed what they lack and was not embedded before."""

    def embed(missing: Sequence[str]) -> embeddings.Vectors:
        return embedded.vectors(run, identity, model, missing, config.batch_size, config.threads)

    if vectors is None:
        return embed(texts)
    settings = {"encoder": identity, **config.model_dump(include={*shards.SETTINGS})}
    known = (found := shards.Shards.open(vectors, settings, run.params_file)).vectors(texts, embed)
    log.info(
        "%d shards: they have the vectors of %d chunks, and lack %d",
        len(found),
        len(texts) - known.missing,
        known.missing,
    )
    run.measure(missing=known.missing)
    return known


def _queries(config: Config, model: Any, encoder: str, asked: Sequence[str]) -> embeddings.Vectors:
    """Embed the questions that were not embedded before, one by one, as a search does."""
    name = embeddings.name(encoder, "queries", config.threads)
    embed = partial(encoders.embed, model, size=1, queries=True)
    return embeddings.vectors(asked, model.get_embedding_dimension(), name, embed)


def _ranked(folder: Path, asked: Sequence[str], vectors: Any, depth: int) -> list[dict[str, Leg]]:
    """Search both legs of the index in a folder for each question, by its text and by its vector."""
    lexical = legs(*Lexical.open(folder / LEXICAL).search(asked, depth))
    near = legs(*Dense.open(folder).search(vectors, depth))
    return [{"lexical": one, "dense": other} for one, other in zip(lexical, near, strict=True)]


if __name__ == "__main__":
    stage(main, Config)
