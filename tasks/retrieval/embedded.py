"""The texts of chunks to vectors, alike for an index and for a shard of it: settings that must fit, and the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.retrieval import embeddings
from tasks.retrieval import encoder as encoders
from tasks.stage import artifact
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run


def check_titles(embed_titles: bool, params_file: Path, encoder: Path) -> None:
    """Refuse to embed chunks in another form than the encoder was trained on. Raises ConfigError."""
    report = encoder / "report.json"
    trained = artifact.read_json(report)[encoders.TITLES] if report.is_file() else embed_titles
    if trained != embed_titles:
        raise ConfigError(
            f"{params_file}: embed_titles is {embed_titles}, and {encoder} was trained with {trained}; set "
            f"both to the same"
        )


def vectors(run: Run, encoder: str, model: Any, texts: Sequence[str], size: int, threads: int) -> embeddings.Vectors:
    """Embed the texts that were not embedded before, by the same encoder with the same settings.

    Args:
        run: whose progress is told.
        encoder: its identity, `tasks.retrieval.encoder.digest`.
        model: the encoder, loaded.
        texts: at least one.
        size: texts at a time.
        threads: of torch.
    """
    done = 0

    def embed(batch: Sequence[str]) -> Any:
        nonlocal done
        made = encoders.embed(model, batch, size, queries=False)
        done += len(batch)
        run.progress.update(done, len(texts), "embedding")
        return made

    name = embeddings.name(encoder, size, threads)
    return embeddings.vectors(texts, model.get_embedding_dimension(), name, embed)
