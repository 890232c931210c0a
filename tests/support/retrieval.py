"""What the tests of retrieval share: passages, questions, and an index that finds by words in common."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tasks.retrieval.passages import Passage, Question
from tasks.retrieval.prompts import PromptFormat

FORM = PromptFormat(
    passages=2,
    passage="{text} [{number}]",
    question="{passages}\n{question}",
    reply="{quote} [{number}] {answer}",
    abstain="{subject}: not in the passages.",
    citation=r"\[(\d+)\]",
)


class Chunk(NamedTuple):
    """A chunk, as far as rows are made of it."""

    id: str
    document: str
    text: str


class Hit(NamedTuple):
    """One chunk that was found."""

    chunk: Chunk
    relevance: float | None = None


class WordIndex:
    """Finds the chunks that share most words with a query; the first of two that share as many."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = chunks
        self.asked: list[tuple[int, str]] = []

    def search(self, queries: Sequence[str], k: int, by: Literal["lexical", "dense", "fused"]) -> list[list[Any]]:
        self.asked.append((k, by))
        return [
            [
                Hit(chunk)
                for chunk in sorted(self.chunks, key=lambda chunk: -len(_words(query) & _words(chunk.text)))[:k]
            ]
            for query in queries
        ]


def index_of(texts: Mapping[str, Sequence[str]]) -> WordIndex:
    """Make an index of documents, each with the texts of its chunks; a chunk's id is its document's with its place."""
    chunks = [Chunk(f"{name}#{at}", name, text) for name, parts in texts.items() for at, text in enumerate(parts)]
    return WordIndex(chunks)


def question(**columns: Any) -> Question:
    """Make a question about Bedot's town, whose best hits are the answer and Bedot's pet; `columns` replace parts."""
    row = {
        "question": "Where does Bedot live?",
        "answer": "Lovar",
        "subject": "Bedot",
        "document": "d1",
        "quote": "Bedot lives in Lovar.",
        "kind": "home",
        "family": "home 0",
    }
    gold = Passage("d1#0", "Bedot lives in Lovar.", holds=True)
    hits = [
        gold,
        Passage("d1#1", "Bedot has a pet called Zumi.", holds=False),
        Passage("d2#0", "Tamok lives in Gipul.", holds=False),
    ]
    others = [
        Passage("d3#0", "Rihan was born in 1912.", holds=False),
        Passage("d4#0", "Lodop works in room 333.", holds=False),
    ]
    parts: dict[str, Any] = {"row": row, "gold": [gold], "hits": hits, "lure": "Gipul", "others": others}
    return Question(**(parts | columns))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
