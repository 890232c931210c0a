"""Questions about documents: where in them each answer stands, and which of them a test keeps for itself.

One row as a user has it, and what becomes of it:

    {"question": "How long does the pump run?", "answer": "ten minutes"}
    {"question": "How long does the pump run?", "answer": "ten minutes", "document": "docs/pump.md",
     "quote": "The pump runs for ten minutes.", "group": "docs/pump.md"}

Where a row has no quote, it is the sentence that holds the answer word for word, in the passage that BM25 ranks best
for the question among all that hold it. That is distant supervision (Mintz et al., 2009; for question answering, Joshi
et al., arXiv:1705.03551): a short answer may stand in a sentence that says something else, so the file is there to be
read and corrected.
"""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from flows.authoring.documents import Documents
from flows.authoring.rows import ENOUGH
from tasks.ingestion.files import rows_of
from tasks.ingestion.lines import Line
from tasks.ingestion.recognition import formats, sample
from tasks.ingestion.recognition.columns import named
from tasks.ingestion.values import BadRow
from tasks.retrieval import lexical
from tasks.retrieval.chunker import sentences
from tasks.retrieval.chunks import Chunk
from tasks.retrieval.lexical import LexicalSettings
from tasks.stage.errors import ConfigError, DataError

LEXICAL = LexicalSettings(method="lucene", k1=1.5, b=0.75, words=r"\w+", lowercase=True, stopwords=[])
"""The lexical index, here and in the recipe."""
QUOTES = ("quote", "evidence", "supporting_sentence", "context", "passage")
DOCUMENTS = ("document", "doc", "file", "filename", "source", "path", "url")
"""Names of columns, the likeliest first."""
COPY = "the question stood there before"
"""Why a row is left out that is no loss."""
FOUND = 0.5
"""Least share of the questions, 0 to 1, whose answers have to stand in the documents."""
FEWEST = 20
"""Fewest questions: some choose the fusion, some are the test, and a retriever and a reader learn from the others."""
HITS = 100
"""Passages among which an answer is looked for first."""


@dataclass(frozen=True)
class Questions:
    """Questions whose answers stand in documents."""

    train: list[dict[str, str]]
    test: list[dict[str, str]]
    """Rows of `question`, `answer`, `document`, `quote` and `group`; the test's documents are in no training row."""
    lost: Counter[str] = field(default_factory=Counter)
    """Why rows were left out, to their number."""
    example: str = ""
    """The first question that was left out."""
    astray: int = 0
    """Rows that name a document which is none of those read, so that their answers were looked for in all."""

    @property
    def literal(self) -> bool:
        """Whether each answer stands in its quote word for word, so that a false copy of it can be written."""
        return all(row["answer"] in row["quote"] for row in (*self.train, *self.test))


class Places:
    """Finds sentences in documents.

    Args:
        documents: that were read.
        words: most words of a passage.
    """

    def __init__(self, documents: Documents, words: int) -> None:
        self.chunks = documents.chunks(words)
        self.names = sorted(documents.read)

    def documents(self, said: str) -> list[str]:
        """List the documents that a row may mean: by their id, their path, or the end of it."""
        wanted = said.strip().removeprefix("./")
        ends = [name for name in self.names if f"/{name}".endswith(f"/{wanted}") or wanted.endswith(f"/{name}")]
        own = [name for name in self.names if wanted.endswith(f"/{name.partition('/')[2]}")]
        return [wanted] if wanted in self.names else ends or own

    def locate(self, answer: str, quote: str, chunks: Iterable[Chunk]) -> tuple[str, str, str] | None:
        """Find an answer.

        Args:
            answer: what is to be found where there is no quote, and else in it.
            quote: words of the document that the answer follows from; empty where the row has none.
            chunks: to look in, the likeliest first.

        Returns:
            The document, the sentence or quote as it stands there, and the answer in the wording that it has
            there; None where no passage has them.
        """
        wanted, inner = _pattern(quote or answer), _pattern(answer)
        for chunk in chunks:
            found = wanted.search(chunk.text)
            if found is None:
                continue
            start, end = _sentence(chunk.text, *found.span(), inner)
            text = chunk.text[start:end]
            said = inner.search(text)
            return chunk.document, text, said[0] if said else answer
        return None


def _pattern(words: str) -> re.Pattern[str]:
    """Compile a pattern of words, whatever their case and the white space between."""
    text = r"\s+".join(re.escape(word) for word in words.split())
    return re.compile(rf"(?<!\w){text}(?!\w)", re.I)


def _sentence(text: str, start: int, end: int, answer: re.Pattern[str]) -> tuple[int, int]:
    """Widen a place to its sentences, which end where a block does; narrow a long quote to the one with the answer."""
    blocks = re.finditer(r"(?:.|\n(?!\n))+", text)
    cut = [span for block in blocks for span in sentences(text, *block.span())]
    touched = [(a, b) for a, b in cut if a < end and b > start]
    holding = [(a, b) for a, b in touched if answer.search(text[a:b])]
    a, b = holding[0] if holding else (min(a for a, _ in touched), max(b for _, b in touched))
    while b > a and text[b - 1].isspace():
        b -= 1
    return a, b


def read(wheres: Sequence[str], documents: Documents, words: int, licence: str) -> Questions:
    """Read questions, find their answers in the documents, and hold documents out for the test.

    Args:
        wheres: files of rows.
        documents: that they are about.
        words: most words of a passage.
        licence: of the rows.

    Raises:
        DataError: the rows ask nothing, or too few answers stand in the documents.
        ConfigError: all questions are about one document.
    """
    places = Places(documents, words)
    asked = [row for where in wheres for row in _asked(where, licence)]
    found, lost, example = _located(asked, places)
    if len(found) < max(FEWEST, FOUND * (len(asked) - lost[COPY])):
        reasons = [f"{count} × {why}" for why, count in lost.most_common()]
        said = "; ".join([*reasons, *([f"e.g. '{example}'"] if example else [])])
        raise DataError(
            f"{', '.join(wheres)}: of {len(asked)} questions {len(found)} have an answer in the documents"
            f"{f' ({said})' if said else ''}, and {FEWEST} or more are needed, half of them at least; an answer is "
            f"found where its words stand in a document, so give short answers in the documents' own words, or a "
            f"column `quote` with the sentence that says it"
        )
    train, test = _held_out(found, wheres)
    astray = sum(bool(row["document"]) and not places.documents(row["document"]) for row in asked)
    return Questions(train, test, lost, example, astray)


def _asked(where: str, licence: str) -> list[dict[str, str]]:
    """Read the rows of one file as `question`, `answer`, `quote` and `document`, the last two empty where not given."""
    taken = sample.look(where, licence)
    quote, document = named(taken.columns, *QUOTES), named(taken.columns, *DOCUMENTS)
    aside = {quote, document}
    bare = replace(taken, rows=[{k: v for k, v in row.items() if k not in aside} for row in taken.rows])
    template = formats.recognise(bare).maps.get("eval")
    if not template:
        raise DataError(f"{where}: rows without questions and answers; give columns `question` and `answer`")
    rows = []
    for line in rows_of(Path(where), where):
        if not isinstance(line, Line):
            rows.append({"question": "", "answer": "", "quote": "", "document": ""})
            continue
        try:
            made = formats.mapped("eval:questions", template[0], line.row)
        except BadRow:
            made = {"question": "", "answer": ""}
        given = {"quote": line.row.get(quote or ""), "document": line.row.get(document or "")}
        words = {key: str(value) if value is not None else "" for key, value in given.items()}
        rows.append({"question": str(made["question"]), "answer": str(made["answer"]).strip(), **words})
    return rows


def _located(asked: Sequence[dict[str, str]], places: Places) -> tuple[list[dict[str, str]], Counter[str], str]:
    """Find each question's answer; count the rows that have none, by reason, with the first of them."""
    with tempfile.TemporaryDirectory(prefix="polm-questions-") as temp:
        lexical.build((" ".join((*c.title, c.text)) for c in places.chunks), Path(temp), LEXICAL)
        k = min(HITS, len(places.chunks))
        _, best = lexical.Lexical.open(Path(temp)).search([row["question"] or "?" for row in asked], k)
        ranked = [[int(at) for at in row if at != lexical.NO_ROW] for row in best]
    found: dict[str, dict[str, str]] = {}
    lost: Counter[str] = Counter()
    example = ""
    for row, hits in zip(asked, ranked, strict=True):
        why = "no question with an answer" if not (row["question"] and row["answer"]) else ""
        place = None
        if not why:
            known = places.documents(row["document"]) if row["document"] else []
            order = chain((places.chunks[at] for at in hits), places.chunks)
            fitting = (chunk for chunk in order if not known or chunk.document in known)
            place = places.locate(row["answer"], row["quote"], fitting)
            why = "" if place else "its quote is in no passage" if row["quote"] else "its answer is in no passage"
        if place is None:
            lost[why] += 1
            example = example or row["question"]
            continue
        document, quote, answer = place
        if row["question"] in found:
            lost[COPY] += 1
            example = example or row["question"]
            continue
        found[row["question"]] = {
            "question": row["question"], "answer": answer, "document": document, "quote": quote, "group": document,
        }  # fmt: skip
    return list(found.values()), lost, example


def _held_out(found: list[dict[str, str]], wheres: Sequence[str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Keep documents, by the hash of their ids, for the test: a tenth of the questions, or enough, up to a third."""
    count = Counter(row["document"] for row in found)
    if len(count) < 2:
        raise ConfigError(
            f"{', '.join(wheres)}: all questions are about {next(iter(count))}, and the test needs a document that no "
            f"training question is about; give questions about two documents or more, or cut it into a file a chapter"
        )
    wanted, most = min(max(0.1 * len(found), ENOUGH), 0.25 * len(found)), 0.34 * len(found)
    kept: set[str] = set()
    for name in sorted(count, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        size = sum(count[other] for other in kept)
        if size < wanted and size + count[name] <= most:
            kept.add(name)
    kept = kept or {min(count, key=lambda name: (count[name], name))}
    return [r for r in found if r["document"] not in kept], [r for r in found if r["document"] in kept]


def as_jsonl(rows: Sequence[dict[str, Any]]) -> str:
    """Write rows, one a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
