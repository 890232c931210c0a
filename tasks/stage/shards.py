"""Shards in a graph: an index whose chunks are embedded by several stages, each for a part of the documents.

Whatever runs stages spreads them: each shard is a stage of its own, `rag_embed@index-1of2`, and needs nothing of the
others. The graph names each of them, since DVC's templates cannot count:

    rag_embed:
      index-1of2: {index: index, chunks: passages, encoder: retriever}
      index-2of2: {index: index, chunks: passages, encoder: retriever}
    rag_index_sharded:
      index: {chunks: passages, encoder: retriever, data: facts}
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.stage.config import suggest
from tasks.stage.recipe import EMBED, SHARDED, Graph, Model

SAME = ("chunks", "encoder")
"""Keys in which a shard and its index agree."""

_NAME = re.compile(r"(?P<index>.+)-(?P<number>[1-9]\d*)of(?P<shards>[1-9]\d*)")


@dataclass(frozen=True, order=True)
class Shard:
    """One part of an index's documents."""

    index: str
    """Name of the index."""
    number: int
    """Which part, from 1."""
    shards: int
    """Number of parts."""

    def __str__(self) -> str:
        return f"{self.index}-{self.number}of{self.shards}"


def parse(name: str) -> Shard | None:
    """Read the name of a shard, `index-1of4`; None where it is none."""
    found = _NAME.fullmatch(name)
    if found is None or int(found["number"]) > int(found["shards"]):
        return None
    return Shard(found["index"], int(found["number"]), int(found["shards"]))


def problems(graph: Graph) -> Iterator[str]:
    """Say what is wrong with a graph's shards and with the indexes that are made from them, naming the key."""
    indexes = {name: model for name, model in graph.models.items() if model.method == SHARDED}
    there: dict[str, dict[Shard, str]] = {name: {} for name in indexes}
    for name, model in graph.models.items():
        if model.method != EMBED:
            continue
        index, shard = model.values.get("index", ""), parse(name)
        if index not in indexes:
            if "index" in model.values:  # that it is missing is said of every key
                yield f"{EMBED}.{name}.index is '{index}'{suggest(index, indexes)}; these stand under '{SHARDED}'"
        elif shard is None or shard.index != index:
            yield (
                f"{EMBED}.{name}: a shard is called by its index and number, from {index}-1of2 to {index}-2of2 for two"
            )
        else:
            there[index][shard] = name
            yield from _differences(model, indexes[index])
    for index, found in there.items():
        yield from _missing(index, found)


def _differences(shard: Model, index: Model) -> Iterator[str]:
    """Name the keys in which a shard embeds other chunks, or by another encoder, than its index reads."""
    for key in SAME:
        own, other = shard.values.get(key), index.values.get(key)
        if own is not None and other is not None and own != other:
            yield f"{EMBED}.{shard.name}.{key} is '{own}', and {SHARDED}.{index.name}.{key} is '{other}'; name the same"


def _missing(index: str, found: dict[Shard, str]) -> Iterator[str]:
    """Say which shards an index lacks, or that they are of two ways to divide it."""
    if not found:
        yield f"{SHARDED}.{index}: no shard under '{EMBED}'; add {index}-1of2 and {index}-2of2, or use 'rag_index'"
        return
    first, *others = sorted(found)
    for other in others:
        if other.shards != first.shards:
            yield (
                f"{EMBED}.{first} and {EMBED}.{other} divide '{index}' by {first.shards} and by {other.shards}; take "
                f"one of both numbers"
            )
            return
    every = [Shard(index, number, first.shards) for number in range(1, first.shards + 1)]
    if lacking := [str(shard) for shard in every if shard not in found]:
        yield f"{SHARDED}.{index}: no shard {', '.join(lacking)} under '{EMBED}'; add {lacking[0]} like {first}"
