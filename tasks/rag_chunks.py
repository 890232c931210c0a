"""Documents to passages, and the lexical index over them: what is found when a question is looked up by its words.

Each document is read by the reader of its format, cut at its structure first and by length second, and kept with the
headings above each passage and the place in the document's extracted text. Two documents with the same text are one.
One row of `chunks.parquet`, and of `documents.parquet`:

    {"id": "9f0c…", "document": "people/0001.txt", "source": "people", "title": [], "start": 0, "end": 31,
     "text": "Ada Pell was born in Fallmouth."}
    {"id": "people/0001.txt", "source": "people", "licence": "CC0-1.0", "sha256": "51f2…", "bytes": 31,
     "characters": 31, "chunks": 1, "kind": "text"}

What was made of a document is kept in `.polm/retrieval/`, and an unchanged one is neither read nor cut again; the
artifact is the same with and without it. Left out on purpose: text recognition, language detection, near-duplicates.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from tasks.retrieval import lexical
from tasks.retrieval.cache import FOLDER, Cache, Pieces, Record, now, version
from tasks.retrieval.chunker import ChunkSettings, pieces
from tasks.retrieval.chunks import write_columns
from tasks.retrieval.documents import DocumentSource, FolderDocuments
from tasks.retrieval.extracted import Unreadable
from tasks.retrieval.formats import Bounds, extract, format_of
from tasks.retrieval.ledger import Ledger
from tasks.retrieval.lexical import LexicalSettings, Words
from tasks.retrieval.listing import Found, Refused, listed
from tasks.retrieval.postings import Postings, count, joined
from tasks.stage.artifact import write_json, write_jsonl
from tasks.stage.config import StageConfig
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage

log = logging.getLogger("polm")


class Config(StageConfig):
    """`params/<recipe>/<key>.yaml` of passages."""

    sources: dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")], DocumentSource] = Field(min_length=1)
    """Name to source; the name is the first part of its documents' ids."""
    unreadable: Literal["skip", "refuse"]
    """What becomes of a document that gives no passage: `skip` leaves it out, `refuse` stops; both name it."""
    bounds: Bounds
    """The most that one document may take."""
    report_examples: int = Field(ge=0)
    """Examples kept in the report for each reason why documents were left out; `rejects.jsonl` has them all."""
    chunk: ChunkSettings
    """The length of passages."""
    lexical: LexicalSettings
    """The lexical index."""
    index_titles: bool
    """Whether the lexical index reads the headings above a passage as its first words."""


def main(config: Config, run: Run) -> None:
    """Write `chunks.parquet`, `documents.parquet`, `lexical/`, `rejects.jsonl` and `report.json`."""
    with run.timed("import"):
        import bm25s  # noqa: F401
        import pyarrow.parquet
        import scipy.sparse  # noqa: F401

        pyarrow.array([])  # looks for pandas, once
    ledger = Ledger(config.report_examples)
    cache = Cache(FOLDER / f"{run.params_file.parent.name}-{run.name}.sqlite")
    try:
        with run.timed("read"):
            for at, name in enumerate(sorted(config.sources)):
                run.progress.update(at, len(config.sources) + 1, f"read {name}")
                _read(config, run, name, cache, ledger)
        ledger.stop_at_unreadable(config.unreadable, run.params_file)
        run.progress.update(len(config.sources), len(config.sources) + 1, "index")
        counted: list[Postings] = []
        with run.timed("chunks"):
            write_columns(_columns(config, cache, ledger, counted), run.out)
        run.measure(documents_read=cache.read, documents_unchanged=cache.found)
    finally:
        cache.close()
    _check(config, run.params_file, ledger)
    with run.timed("lexical"):
        lexical.build_counted(joined(counted), list(cache.vocabulary), run.out / "lexical", config.lexical)
    ledger.write_documents(run.out)
    write_jsonl(run.out / "rejects.jsonl", ledger.rejects())
    write_json(run.out / "report.json", ledger.report(config.sources))
    log.info("%s", ledger.summary())


def _read(config: Config, run: Run, source: str, cache: Cache, ledger: Ledger) -> None:
    """Bring the cache up to date with a source: what is new is read, what has gone is forgotten."""
    settings: Any = config.sources[source]
    made = version(
        chunk=config.chunk.model_dump(),
        bounds=config.bounds.model_dump(),
        format=settings.format,
        within=settings.within,
        words=config.lexical.model_dump(include={"words", "lowercase", "stopwords"}),
        index_titles=config.index_titles,
    )
    words = Words(config.lexical)
    there: set[str] = set()
    for found in listed(settings, run.params_file.parent, config.bounds.max_bytes):
        ledger.listed(source)
        if isinstance(found, Refused):
            ledger.reject(source, found.name, found.why.reason, found.why.detail)
            continue
        there.add(found.name)
        record = cache.get(source, found.name, found.stamp, made, found.changed)
        if record is None:
            seen = now()
            record, pieces = _made(found, f"{source}/{found.name}", settings, config, words, cache.vocabulary)
            cache.put(source, found.name, found.stamp, made, seen, record, pieces)
        if record.reason:
            ledger.reject(source, found.name, record.reason, record.detail)
    cache.keep(source, there)
    if not ledger.found[source]:
        raise DataError(f"{run.params_file}: source '{source}' has no document; check its path and patterns")


def _made(
    found: Found, document: str, settings: Any, config: Config, words: Words, vocabulary: dict[str, int]
) -> tuple[Record, Pieces]:
    """Read one document, cut it into passages and count their words, or say why that is not possible."""
    name, data = "", b""
    try:
        name = settings.format or format_of(found.name)
        data = found.read()
        extracted = extract(data, name, config.bounds, settings.within)
    except Unreadable as e:
        record = Record(name, hashlib.sha256(data).hexdigest(), len(data), 0, "", 0, e.reason, e.detail)
        return record, Pieces([], [], [], [], [], count([], words.of, vocabulary))
    text = extracted.text
    cut = [(list(p.title), p.start, p.end, text[p.start : p.end]) for p in pieces(extracted, config.chunk)]
    titles, starts, ends, texts = (list(column) for column in zip(*cut, strict=True)) if cut else ([], [], [], [])
    searched = [" ".join((*title, part)) for title, part in zip(titles, texts, strict=True)]
    counted = count(searched if config.index_titles else texts, words.of, vocabulary)
    digest = hashlib.sha256(text.encode()).hexdigest()
    record = Record(name, hashlib.sha256(data).hexdigest(), len(data), len(text), digest, len(cut), "", "")
    return record, Pieces(_ids(document, titles, texts, config), titles, starts, ends, texts, counted)


def _ids(document: str, titles: list[list[str]], texts: list[str], config: Config) -> list[str]:
    """Compute the ids of a document's passages, as `Chunk` says."""
    settings = json.dumps(config.chunk.model_dump(), sort_keys=True)
    repeated: Counter[tuple[str, ...]] = Counter()
    ids = []
    for title, text in zip(titles, texts, strict=True):
        times = repeated[(*title, text)]
        repeated[(*title, text)] += 1
        key = json.dumps([document, title, text, settings, times], ensure_ascii=False)
        ids.append(hashlib.sha256(key.encode()).hexdigest()[:16])
    return ids


def _columns(config: Config, cache: Cache, ledger: Ledger, counted: list[Postings]) -> Iterator[dict[str, Any]]:
    """Yield the passages of every document that can be read, by the order of ids; the second of equal texts has none.

    The postings of each are added to `counted`.
    """
    first: dict[str, str] = {}
    for source, name, record, read in cache.records(sorted(config.sources)):
        if record.reason:
            continue
        document = f"{source}/{name}"
        if (same := first.setdefault(record.text, document)) != document:
            ledger.duplicate(source, name, same)
            continue
        ledger.kept(source, name, config.sources[source].licence, record)
        of = read()
        counted.append(of.words)
        yield {
            "id": of.id,
            "document": [document] * record.chunks,
            "source": [source] * record.chunks,
            "title": of.title,
            "start": of.start,
            "end": of.end,
            "text": of.text,
        }


def _check(config: Config, params: Path, ledger: Ledger) -> None:
    """Raise DataError for a source without a document that can be read, or with others than the recipe pins."""
    if not ledger.documents:
        raise DataError(f"{params}: no document gives a passage:{ledger.examples()}")
    for name, source in config.sources.items():
        if isinstance(source, FolderDocuments) and source.sha256 is not None:
            actual = ledger.sha256(name)
            if source.sha256.lower() != actual:
                raise DataError(
                    f"{params}: the documents of source '{name}' have SHA-256 {actual}, the recipe pins "
                    f"{source.sha256}; restore them, or change 'sha256' if the new ones are meant"
                )


if __name__ == "__main__":
    stage(main, Config)
