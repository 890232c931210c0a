"""Files about documents against each other and this machine: folders of documents, encoders, searches, conditions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import evaluate_rag, raft, rag_chunks, rag_index, retriever
from tasks.check.files import Recipe
from tasks.retrieval.answered import CONDITIONS
from tasks.retrieval.documents import FolderDocuments
from tasks.retrieval.listing import listed
from tasks.retrieval.origins import FolderEncoder
from tasks.stage.config import suggest
from tasks.stage.errors import DataError

MODULES = "modules.json"
"""File that says of which parts an encoder of sentence-transformers is."""


def check(under_check: Recipe) -> Iterator[str]:
    """Check what a stage of retrieval would refuse once the stages before it are done."""
    yield from _documents(under_check)
    yield from _encoders(under_check)
    yield from _searches(under_check)


def _documents(under_check: Recipe) -> Iterator[str]:
    """Say which folders of documents are not there, or hold none."""
    for file in sorted(under_check.configs):
        config = under_check.of(file, rag_chunks.Config)
        if config is None:
            continue
        for name, source in config.sources.items():
            if not isinstance(source, FolderDocuments):
                continue
            place = f"{under_check.folder / file}: sources.{name}"
            try:
                found = next(iter(listed(source, under_check.folder, config.bounds.max_bytes)), None)
            except DataError as e:
                yield f"{place}.folder: {e}"
                continue
            if found is None:
                yield (
                    f"{place}.files: no document below {source.folder} is named by {', '.join(source.files)}; "
                    f"correct the patterns, e.g. **/*.md"
                )


def _encoders(under_check: Recipe) -> Iterator[str]:
    """Say which retriever starts from no encoder, and which index embeds otherwise than its encoder has learnt."""
    graph = under_check.graph
    for file in sorted(under_check.configs):
        config = under_check.of(file, retriever.Config)
        if config is not None and isinstance(config.encoder, FolderEncoder):
            folder = Path(config.encoder.folder)
            if not (folder / MODULES).is_file():
                wrong = f"has no {MODULES}" if folder.is_dir() else "is no folder here"
                yield (
                    f"{under_check.folder / file}: encoder.folder: {folder} {wrong}; name a folder that "
                    f"sentence-transformers wrote"
                )
    for name, model in sorted(graph.models.items()):
        index = under_check.of(_file(name, model.values), rag_index.Config)
        encoder = str(model.values.get("encoder", ""))
        values = graph.models[encoder].values if encoder in graph.models else {}
        learnt = under_check.of(_file(encoder, values), retriever.Config)
        if index is not None and learnt is not None and index.embed_titles != learnt.embed_titles:
            yield (
                f"{under_check.folder / _file(name, model.values)}: embed_titles is {index.embed_titles}, and "
                f"{_file(encoder, values)} has {learnt.embed_titles}; a retriever has learnt passages of one shape, so "
                f"write the same"
            )


def _searches(under_check: Recipe) -> Iterator[str]:
    """Say where an evaluation searches otherwise than its rows were made, or names a condition that there is not."""
    graph = under_check.graph
    for data in sorted({asked["data"] for asked in graph.evaluate_rag.values()}):
        config = under_check.of(f"evaluate_{data}.yaml", evaluate_rag.Config)
        values = graph.models[data].values if data in graph.models else {}
        rows = under_check.of(_file(data, values), raft.Config)
        if config is None or rows is None:
            continue
        path, other = under_check.folder / f"evaluate_{data}.yaml", _file(data, values)
        if config.retrieval.by != rows.by:
            yield f"{path}: retrieval.by is {config.retrieval.by}, and {other} has by {rows.by}; write the same"
        needed = rows.conditions if "planted" in rows.conditions else CONDITIONS
        if config.without_attack not in needed:
            hint = suggest(config.without_attack, rows.conditions)
            yield (
                f"{path}: without_attack is '{config.without_attack}', which is none of the conditions of {other}{hint}"
            )


def _file(name: str, values: Any) -> str:
    """Name the recipe file of an entry of the graph."""
    return f"{values.get('settings', name)}.yaml"
