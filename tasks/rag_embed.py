"""One shard of an index's vectors: the chunks of a part of the documents, embedded. Trains nothing.

    python -m tasks.rag_embed params/tiny/index.yaml --chunks artifacts/chunks/passages \\
        --encoder artifacts/models/retriever --out artifacts/vectors/index/index-1of4

The name of the artifact says which part it is: a document belongs to shard k of n by a hash of its id, so that it stays
there when others come and go. `tasks/rag_index.py` reads the index's recipe file whole; this stage reads the keys that
decide vectors. What it leaves out: a common list of work from which idle machines take the next part, since whatever
runs stages has one.
"""

import logging
from pathlib import Path

from pydantic import Field

from tasks.retrieval import chunks as stored
from tasks.retrieval import embedded, embeddings, shards
from tasks.retrieval import encoder as encoders
from tasks.stage.config import StageConfig, parse, read_yaml
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.shards import Shard
from tasks.stage.shards import parse as parse_name

log = logging.getLogger("polm")


class Config(StageConfig):
    """The keys of `params/<recipe>/<index>.yaml` that decide vectors, with `seed`, which every stage has."""

    embed_titles: bool
    """Whether the headings above a chunk are embedded with it, as the encoder was trained."""
    batch_size: int = Field(gt=0)
    """Chunks that are embedded at a time. Part of the recipe because it changes the bits."""


def settings(path: Path) -> Config:
    """Read a shard's keys from its index's recipe file; the others are the index's. Raises ConfigError."""
    values = read_yaml(path)
    return parse(path, {key: value for key, value in values.items() if key in Config.model_fields}, Config)


def main(config: Config, run: Run, *, chunks: Path, encoder: Path) -> None:
    """Write `vectors.npy`, `keys.npy` and `vectors.json` (`tasks/retrieval/shards.py`)."""
    shard = _shard(run)
    embedded.check_titles(config.embed_titles, run.params_file, encoder)
    with run.timed("import"):
        import sentence_transformers  # noqa: F401
    texts: dict[bytes, str] = {}
    count = 0
    for chunk in stored.iterate_chunks(chunks):
        if shards.holds(shard.number, shard.shards, chunk.document):
            text = encoders.passage(chunk, config.embed_titles)
            texts[embeddings.key(text)] = text
            count += 1
    model = encoders.load(encoder)
    keys = sorted(texts)
    described = shards.Description(
        shard=shard.number,
        shards=shard.shards,
        encoder=encoders.digest(encoder),
        embed_titles=config.embed_titles,
        batch_size=config.batch_size,
        threads=config.threads,
        dimensions=model.get_embedding_dimension(),
        chunks=count,
        texts=len(keys),
    )
    vectors = None
    with run.timed("embed"):
        if keys:
            ordered = [texts[key] for key in keys]
            vectors = embedded.vectors(run, encoders.digest(encoder), model, ordered, config.batch_size, config.threads)
    made = vectors.embedded if vectors else 0
    run.measure(embedded=made)
    log.info("%s: %d chunks, %d texts: %d embedded, the others known", run.name, count, len(keys), made)
    if not count:
        log.warning("%s: no document of %s belongs to this shard; fewer shards would do", run.name, chunks)
    shards.write(run.out, described, keys, vectors)


def _shard(run: Run) -> Shard:
    """Read from the artifact's name which part it is. Raises ConfigError."""
    shard = parse_name(run.name)
    if shard is None:
        raise ConfigError(
            f"--out ends in '{run.name}', which names no shard; write the index and its number from 1, e.g. "
            f"{run.params_file.stem}-1of4, and for a stage of dvc.yaml change the name in the recipe's graph"
        )
    return shard


if __name__ == "__main__":
    stage(main, Config, settings)
