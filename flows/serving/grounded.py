"""A question with its passages: found in an index, made harmless, and put into the words of the reader's training.

A folder `rag/`, which `polm promote` registers with a reader, holds `index/`, an artifact of `tasks/rag_index.py`, and
`prompt.json`, the reader's format (`tasks/retrieval/prompts.py`). Passages are data: they stand in the user's turn, and
control tokens that they write out reach the tokenizer as plain text.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.retrieval.control_tokens import control_tokens, harmless
from tasks.retrieval.prompts import PROMPT, PromptFormat, parse, read_format
from tasks.retrieval.relevance import relevant
from tasks.stage.errors import ArtifactError

if TYPE_CHECKING:
    from tasks.retrieval.index import Hit

INDEX = "index"
"""Folder of the index inside `rag/`."""
DOCUMENTS = "documents.parquet"
"""File of an index with the documents that its passages come from."""


@dataclass(frozen=True)
class Source:
    """A passage that the reader was shown."""

    number: int
    """Its number in the prompt, from 1; also its rank in what was found."""
    chunk: str
    """Id of the chunk: 16 hex digits."""
    document: str
    """Id of the document."""
    sha256: str
    """SHA-256 of the document's file."""
    source: str
    """Source in the recipe."""
    licence: str
    title: tuple[str, ...]
    """Headings above it, the outermost first."""
    start: int
    """Offset of its first character in the document's extracted text."""
    end: int
    """Offset behind its last character."""
    text: str
    """Text of the document, as the index has it."""
    score: float
    """What it was ranked by."""
    ranks: Mapping[str, int | None]
    """Part of the index (`lexical`, `dense`) to the passage's rank in it; None where that part did not find it."""
    parts: Mapping[str, float]
    """Part of the index to its share of the score."""
    relevance: float | None = None
    """Probability, 0 to 1, that it answers the question; None where the index does not say."""

    @property
    def place(self) -> str:
        """Document and headings for a person: `people/0001.txt › Ada Pell`."""
        return " › ".join((self.document, *self.title))

    def record(self) -> dict[str, Any]:
        """Write it as JSON."""
        return asdict(self) | {"title": [*self.title]}


@dataclass(frozen=True)
class Grounded:
    """A question as the reader is asked it."""

    prompt: str
    """The user's message with the passages in it."""
    sources: tuple[Source, ...]
    """The passages, in their order in the prompt."""
    seconds: Mapping[str, float]
    """Part of the search (`embed`, `lexical`, `dense`, `fuse`, and `all` of it) to how long it took."""


class Grounding:
    """An index and a reader's format, opened."""

    def __init__(self, index: Path, form: PromptFormat, model: Path) -> None:
        """Open the index.

        Args:
            index: artifact of `tasks/rag_index.py`.
            form: in which words the reader is asked.
            model: folder of the reader, whose control tokens no passage may hold.

        Raises:
            ArtifactError: no index there, a broken one, or one without the relevance that the format asks for.
            ModelError: its encoder cannot be loaded.
        """
        from transformers.utils import logging

        from tasks.retrieval.index import Index

        logging.set_verbosity_error()  # who asks is told nothing of an encoder's layers, and sees no bar
        logging.disable_progress_bar()
        self.form = form
        self._index = Index.open(index)
        if form.least_relevance is not None and self._index.described.relevance is None:
            raise ArtifactError(
                f"{index}: has no relevance, and the reader's {PROMPT} shows passages of at least "
                f"{form.least_relevance:g} alone; make index and rows anew with `polm run`"
            )
        self._documents = _documents(index)
        self._tokens = control_tokens(model)
        self.ground("Hello!", 1)  # loads the encoder: the folder may be a copy that is deleted then

    def ground(self, question: str, passages: int) -> Grounded:
        """Find passages for a question and put them into its prompt.

        Args:
            question: in the user's words.
            passages: most passages, from 1 to those of the format.
        """
        began = time.monotonic()
        (found,) = self._index.search([question], passages)
        hits = relevant(found, self.form.least_relevance)
        sources = tuple(self._source(number, hit) for number, hit in enumerate(hits, 1))
        prompt = self.form.render(question, [harmless(source.text, self._tokens) for source in sources])
        return Grounded(prompt, sources, {**self._index.seconds, "all": time.monotonic() - began})

    def _source(self, number: int, hit: "Hit") -> Source:
        chunk = hit.chunk
        sha256, licence = self._documents[chunk.document]
        return Source(
            number=number,
            chunk=chunk.id,
            document=chunk.document,
            sha256=sha256,
            source=chunk.source,
            licence=licence,
            title=chunk.title,
            start=chunk.start,
            end=chunk.end,
            text=chunk.text,
            score=float(hit.score),
            ranks=dict(hit.ranks),
            parts={part: float(score) for part, score in hit.parts.items()},
            relevance=hit.relevance,
        )


def open_rag(rag: Path, model: Path) -> Grounding:
    """Open the folder `rag/` of a registered version; for the arguments and what is raised see `Grounding`."""
    return Grounding(rag / INDEX, read_format(rag), model)


def cited(text: str, form: PromptFormat, sources: Sequence[Source]) -> list[tuple[Source, int, int]]:
    """Find the citations of an answer.

    Args:
        text: the answer.
        form: the reader's format.
        sources: what it was shown.

    Returns:
        The passage, and the offsets of the citation in the text; none of an answer that abstains, and none of a number
        that no passage has.
    """
    if parse(text, form).abstained:
        return []
    shown = {source.number: source for source in sources}
    found = [(int(match[1]), match.start(), match.end()) for match in re.finditer(form.citation, text)]
    return [(shown[number], start, end) for number, start, end in found if number in shown]


def _documents(index: Path) -> dict[str, tuple[str, str]]:
    """Read the documents of an index: id to SHA-256 and licence. Raises ArtifactError."""
    import pyarrow
    from pyarrow import parquet

    path = index / DOCUMENTS
    try:
        table = parquet.read_table(path, columns=["id", "sha256", "licence"])
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise ArtifactError(f"{path}: no file of documents ({e}); delete its folder and run `polm run`") from None
    columns = (table[name].to_pylist() for name in ("id", "sha256", "licence"))
    return {name: (digest, licence) for name, digest, licence in zip(*columns, strict=True)}
