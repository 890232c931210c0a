"""An index of chunks, as `tasks/rag_index.py` writes it: lexical, dense and fused search in one folder.

index = Index.open(Path("artifacts/indexes/index"))
for hit in index.search(["Where does Bexot live?"], k=3)[0]:
    print(hit.score, hit.chunk.document, hit.chunk.text, hit.parts)
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from tasks.retrieval.chunks import Chunk, read_chunks
from tasks.retrieval.dense import Dense
from tasks.retrieval.fusion import LEGS, Fused, Fusion, Leg, fuse
from tasks.retrieval.lexical import Lexical
from tasks.retrieval.relevance import Relevance, raw
from tasks.stage.artifact import read_json
from tasks.stage.config import Strict
from tasks.stage.errors import ArtifactError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

FILE = "index.json"
LEXICAL, ENCODER = "lexical", "encoder"
"""Folders of the lexical index and of the encoder."""
By = Literal["lexical", "dense", "fused"]


class Description(Strict):
    """What `index.json` holds."""

    chunks: int
    """Number of chunks."""
    dimensions: int
    """Dimensions of a vector in the index."""
    encoder: str
    """Identity of the encoder, `tasks.retrieval.encoder.digest`."""
    embed_titles: bool
    """Whether the headings above a chunk were embedded with it."""
    dense: dict[str, Any]
    """How vectors are stored, as the recipe says it."""
    fusion: Fusion
    """How both rankings become one."""
    tried: list[dict[str, Any]] = Field(repr=False)
    """Each fusion that was tried, with its means on the questions."""
    questions: dict[str, int]
    """How many questions it was chosen on, and what became of the others."""
    relevance: Relevance | None = None
    """How probable it is that a hit answers; None where the questions could not tell."""


@dataclass(frozen=True)
class Hit:
    """A chunk that was found."""

    chunk: Chunk
    """The chunk."""
    score: float
    """BM25, cosine, or the sum of `parts`: only comparable within one query and one kind of search."""
    ranks: Mapping[str, int | None]
    """Leg (`lexical`, `dense`) to the chunk's rank in it, from 1; None where that leg did not find it."""
    parts: Mapping[str, float]
    """Leg to what it adds to the score."""
    relevance: float | None = None
    """Probability, 0 to 1, that it answers the question (`tasks/retrieval/relevance.py`); only of `fused` hits."""


class Index:
    """An index in memory, or mapped into it. Searches of several threads take turns outside."""

    def __init__(self, folder: Path, described: Description, chunks: Sequence[Chunk]) -> None:
        """Args: folder: of the index; described: its `index.json`; chunks: its chunks in the order of the rows."""
        self.folder = folder
        self.described = described
        self.chunks = chunks
        self.seconds: dict[str, float] = {}
        """Seconds of the last search: `embed`, `lexical`, `dense` and `fuse`."""
        self._lexical = Lexical.open(folder / LEXICAL)
        self._dense = Dense.open(folder)
        sizes = {len(chunks), described.chunks, self._lexical.size, self._dense.size}
        if len(sizes) > 1 or self._dense.dimensions != described.dimensions:
            raise ArtifactError(f"{folder}: its parts are not of one index ({sorted(sizes)} chunks); run `polm run`")

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """Open an index; the encoder is loaded when a search first needs it.

        Raises:
            ArtifactError: no index there, or one whose parts do not fit each other.
        """
        try:
            described = Description.model_validate(read_json(folder / FILE))
        except ValidationError as e:
            raise ArtifactError(f"{folder / FILE}: of another version ({e}); run `polm run`") from None
        return cls(folder, described, read_chunks(folder))

    @cached_property
    def encoder(self) -> Any:
        """The encoder, a `SentenceTransformer`. Raises ModelError where its folder is broken."""
        from tasks.retrieval import encoder

        return encoder.load(self.folder / ENCODER)

    def search(self, queries: Sequence[str], k: int, by: By = "fused") -> list[list[Hit]]:
        """Find the best chunks of each query; a query's hits do not depend on the queries beside it.

        Args:
            queries: questions, in plain text.
            k: most hits of each, at least 1.
            by: `lexical` is BM25, `dense` the cosine of vectors, `fused` both, as chosen when the index was made.

        Returns:
            Hits of each query, the best first; fewer than k where fewer were found.

        Raises:
            ValueError: k is below 1, or there is no such kind of search.
        """
        if k < 1 or by not in (*LEGS, "fused"):
            raise ValueError(f"k is {k}, by is {by!r}; expected k of at least 1 and one of {', '.join(LEGS)}, fused")
        fusion = self.described.fusion
        depth = max(k, fusion.depth) if by == "fused" else k
        fusion = fusion.model_copy(update={"depth": depth})
        self.seconds = dict.fromkeys(("embed", "lexical", "dense", "fuse"), 0.0)
        found: dict[str, list[Leg]] = {}
        if by != "dense":
            found["lexical"] = self._timed("lexical", lambda: legs(*self._lexical.search(queries, depth)))
        if by != "lexical":
            vectors = self._timed("embed", lambda: self._embedded(queries))
            found["dense"] = self._timed("dense", lambda: legs(*self._dense.search(vectors, depth)))
        if by != "fused":
            return [self._of_leg(by, leg) for leg in found[by]]
        both = [dict(zip(found, of, strict=True)) for of in zip(*found.values(), strict=True)]
        return self._timed("fuse", lambda: [[self._hit(one, of) for one in fuse(of, fusion, k)] for of in both])

    def _embedded(self, queries: Sequence[str]) -> "NDArray[float32]":
        """Embed queries one by one: equal bits for a query alone and among others."""
        from tasks.retrieval import encoder

        whole = encoder.embed(self.encoder, queries, 1, queries=True)
        return encoder.unit(whole, self.described.dimensions)

    def _of_leg(self, name: str, leg: Leg) -> list[Hit]:
        ranks: dict[str, int | None] = dict.fromkeys(LEGS)
        found = [(row, score) for row, score in zip(leg.rows, leg.scores, strict=True) if row >= 0]
        return [
            Hit(self.chunks[row], score, {**ranks, name: rank}, {name: score})
            for rank, (row, score) in enumerate(found, 1)
        ]

    def _hit(self, one: Fused, legs: Mapping[str, Leg]) -> Hit:
        fitted = self.described.relevance
        relevance = fitted.of(*raw(legs, one.row)) if fitted else None
        return Hit(self.chunks[one.row], one.score, one.ranks, one.parts, relevance)

    def _timed(self, name: str, work: Any) -> Any:
        start = time.perf_counter()
        done = work()
        self.seconds[name] = time.perf_counter() - start
        return done


def legs(scores: Any, rows: Any) -> list[Leg]:
    """Turn arrays of scores and rows, both of shape [queries, k], into a leg of each query."""
    return [Leg(of.tolist(), at.tolist()) for of, at in zip(scores, rows, strict=True)]
