"""The index of chunks: their vectors, the lexical index, and how both rankings become one. Trains nothing.

Each chunk and each question is embedded once by one encoder on one machine (`tasks/retrieval/embeddings.py`); the index
is built anew from the vectors, so that a chunk that is gone is gone, and equal chunks give equal bytes whatever was
embedded before. The fusion is chosen on the validation questions (`tasks/retrieval/fusion.py`), and the probability
that a hit answers is fitted on them (`tasks/retrieval/relevance.py`). What it leaves out: updating an index in place,
which drifts from one that is built.
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
from tasks.retrieval import embeddings, lance, questions, relevance
from tasks.retrieval import encoder as encoders
from tasks.retrieval.dense import Dense, build
from tasks.retrieval.dense_settings import LanceDb, Settings
from tasks.retrieval.fusion import FusionSettings, Leg, choose
from tasks.retrieval.index import ENCODER, FILE, LEXICAL, TITLES, Description, legs
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


def main(config: Config, run: Run, *, chunks: Path, encoder: Path, data: Path) -> None:
    """Write an index that `Index.open` reads, and `report.json`: what was read, kept and left out."""
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
    _check_titles(config, run, encoder)
    with run.timed("load"):
        model = encoders.load(encoder)
    dimensions = _dimensions(config, run, model)
    with run.timed("embed"):
        identity = encoders.digest(encoder)
        texts = [encoders.passage(chunk, config.embed_titles) for chunk in found]
        vectors = _vectors(config, run, model, identity, texts)
        queries = _queries(config, model, identity, [question.text for question in asked])
    log.info("%d chunks: %d embedded, the other texts known", len(found), vectors.embedded)
    run.measure(embedded=vectors.embedded)

    def take(start: int, end: int) -> Any:
        return encoders.unit(vectors.take(start, end), dimensions)

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


def _check_titles(config: Config, run: Run, encoder: Path) -> None:
    """Refuse to embed chunks in another form than the encoder was trained on. Raises ConfigError."""
    report = encoder / "report.json"
    trained = artifact.read_json(report)[TITLES] if report.is_file() else config.embed_titles
    if trained != config.embed_titles:
        raise ConfigError(
            f"{run.params_file}: embed_titles is {config.embed_titles}, and {encoder} was trained with {trained}; set "
            f"both to the same"
        )


def _dimensions(config: Config, run: Run, model: Any) -> int:
    """Return how many dimensions are kept. Raises ConfigError where the encoder has fewer."""
    width: int = model.get_embedding_dimension()
    if config.dimensions is not None and config.dimensions > width:
        raise ConfigError(f"{run.params_file}: dimensions is {config.dimensions}, and the encoder has {width}")
    return config.dimensions or width


def _vectors(config: Config, run: Run, model: Any, encoder: str, texts: Sequence[str]) -> embeddings.Vectors:
    """Embed the texts that were not embedded before, by the same encoder with the same settings."""
    done = 0

    def embed(batch: Sequence[str]) -> Any:
        nonlocal done
        made = encoders.embed(model, batch, config.batch_size, queries=False)
        done += len(batch)
        run.progress.update(done, len(texts), "embedding")
        return made

    name = embeddings.name(encoder, config.batch_size, config.threads)
    return embeddings.vectors(texts, model.get_embedding_dimension(), name, embed)


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
