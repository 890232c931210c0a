"""A look at the documents that a user brings: which files, and the passages that they are cut into."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from tasks.ingestion import files
from tasks.retrieval.chunker import ChunkSettings, pieces
from tasks.retrieval.chunks import Chunk
from tasks.retrieval.documents import FolderDocuments
from tasks.retrieval.extracted import Extracted, Unreadable
from tasks.retrieval.formats import SUFFIXES, Bounds, extract, format_of
from tasks.retrieval.listing import Found, listed
from tasks.stage.errors import ConfigError, DataError

BOUNDS = Bounds(max_bytes=50_000_000, max_unpacked_bytes=500_000_000, max_characters=20_000_000)
"""The most that one document may take."""
_SAVED = ("state.json", "dataset_dict.json")
"""Files of a folder that `save_to_disk` of datasets wrote."""


@dataclass(frozen=True)
class Documents:
    """Documents, read once."""

    sources: dict[str, dict[str, Any]]
    """Name of each source to its entry in the recipe file of passages."""
    read: dict[str, Extracted]
    """Id of a document, `<source>/<name>`, to its text and headings; the first of those with the same text."""
    refused: list[tuple[str, str]]
    """Id of each document that gives no passage, and the reason."""
    others: Counter[str] = field(default_factory=Counter)
    """Suffix of the files in folders that were named which are no documents, to their number."""

    def chunks(self, words: int) -> list[Chunk]:
        """Cut all documents into passages as the stage does, sorted by document.

        Args:
            words: most words of a passage.
        """
        settings = chunk_settings(words)
        return [
            Chunk("", document, document.partition("/")[0], tuple(p.title), p.start, p.end, text.text[p.start : p.end])
            for document, text in sorted(self.read.items())
            for p in pieces(text, settings)
        ]


def chunk_settings(words: int) -> ChunkSettings:
    """Give the settings of passages of at most so many words, short blocks of a section put together."""
    return ChunkSettings(words=words, overlap=0, characters=10 * words, join=True)


def are_documents(where: str) -> bool:
    """Whether what is named is documents and no rows: a file by its suffix, a folder or a pattern by its files."""
    path = Path(where)
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    if path.is_dir():
        saved = any((path / name).is_file() for name in _SAVED)
        return not saved and any(_suffix(file) in SUFFIXES for file in path.rglob("*") if file.is_file())
    if not is_pattern(where):
        return False
    folder, pattern = _fixed(where)
    return any(_suffix(file) in SUFFIXES for file in folder.glob(pattern) if file.is_file())


def is_pattern(where: str) -> bool:
    """Whether a path has wildcards and is none by itself."""
    return bool(re.search(r"[*?]", where)) and not Path(where).exists()


def _fixed(where: str) -> tuple[Path, str]:
    """Part a path with wildcards into the folder before the first of them, and the pattern below it."""
    parts = PurePath(where).parts
    fixed = next(at for at, part in enumerate(parts) if re.search(r"[*?]", part))
    return Path(*parts[:fixed]), "/".join(parts[fixed:])


def _suffix(path: PurePath) -> str:
    return path.suffix.lower()


def entry(where: str, licence: str) -> dict[str, Any]:
    """Write the source of one folder, file or pattern, as the recipe file of passages has it."""
    path = Path(where)
    if path.is_dir():
        there = sorted({_suffix(file) for file in path.rglob("*") if file.is_file()} & set(SUFFIXES))
        folder, patterns = path, [f"**/*{suffix}" for suffix in _spelt(path, there)]
    elif path.is_file():
        folder, patterns = path.parent, [path.name]
    else:
        folder, pattern = _fixed(where)
        patterns = [pattern]
    return {
        "folder": str(folder), "files": patterns, "sha256": None, "format": None, "within": None, "licence": licence,
    }  # fmt: skip


def _spelt(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """Spell suffixes as the files of a folder do: `.PDF` beside `.pdf`."""
    return sorted({file.suffix for file in folder.rglob("*") if file.is_file() and _suffix(file) in suffixes})


def look(named: dict[str, str], licence: str) -> Documents:
    """Read documents as the stage `rag_chunks` does.

    Args:
        named: name of each source to the folder, file or pattern.
        licence: of all of them.

    Raises:
        DataError: a source without a document, or not one document that gives a passage.
    """
    sources = {name: entry(where, licence) for name, where in named.items()}
    read: dict[str, Extracted] = {}
    refused: list[tuple[str, str]] = []
    texts: dict[str, str] = {}
    for name, source in sorted(sources.items()):
        found = list(listed(FolderDocuments.model_validate(source), Path("params"), BOUNDS.max_bytes))
        if not found:
            raise DataError(f"{named[name]}: no document; name Markdown, text, HTML, PDF or DOCX files")
        for document in found:
            key = f"{name}/{document.name}"
            if not isinstance(document, Found):
                refused.append((key, document.why.reason))
                continue
            try:
                text = extract(document.read(), format_of(document.name), BOUNDS, None)
            except Unreadable as e:
                refused.append((key, e.reason))
                continue
            if (first := texts.setdefault(text.text, key)) == key:
                read[key] = text
            else:
                refused.append((key, f"the same text as {first}"))
    if not read:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in Counter(why for _, why in refused).items())
        raise DataError(f"{', '.join(named.values())}: no document gives a passage: {reasons}")
    return Documents(sources, read, refused, _others(named.values()))


def _others(wheres: Iterable[str]) -> Counter[str]:
    """Count the files in folders that are no documents, hidden ones aside, by suffix."""
    files = [file for where in wheres if Path(where).is_dir() for file in Path(where).rglob("*") if file.is_file()]
    shown = [file for file in files if not file.name.startswith(".")]
    return Counter(_suffix(file) or "no suffix" for file in shown if _suffix(file) not in SUFFIXES)


def parted(data: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part what `--data` names into documents and files of rows.

    Raises:
        ConfigError: there are no documents, or what is no document is no file of rows on this machine.
    """
    documents = [where for where in data if are_documents(where)]
    rows = [where for where in data if where not in documents]
    if not documents:
        raise ConfigError(
            f"--methods: rag answers from documents, and --data names none ({', '.join(data)}); name a folder, a file "
            f"or a pattern of Markdown, text, HTML, PDF or DOCX"
        )
    for where in rows:
        files.check_file(Path(where), where)
    return documents, rows
