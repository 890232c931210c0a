"""Files to rows, one line at a time, so that one bad line costs one row and is named by its number."""

import contextlib
import errno
import hashlib
import stat
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tasks.ingestion import arrow_files, csv_files, json_files
from tasks.ingestion.lines import COMPRESSED, Keep, Line, Reject, as_is, text_lines
from tasks.stage.artifact import sha256
from tasks.stage.config import nearest
from tasks.stage.errors import DataError

_Reader = Callable[[Path, str], Iterator[Line | Reject]]


def _txt(path: Path, name: str) -> Iterator[Line | Reject]:
    for item in text_lines(path, name):
        yield item if isinstance(item, Reject) else Line(item[0], {"text": item[1].strip()})


READERS: dict[str, _Reader] = {
    ".jsonl": json_files.lines,
    ".csv": partial(csv_files.records, dialect=csv_files.COMMAS),
    ".tsv": partial(csv_files.records, dialect=csv_files.TABS),
    ".txt": _txt,
    ".json": json_files.array,
    ".parquet": arrow_files.parquet_rows,
    ".arrow": arrow_files.arrow_rows,
}
"""Suffix of a file to what reads it; `.gz` or `.zst` may follow."""


def read_file(path: Path, name: str, keep: Keep = as_is) -> tuple[list[Line], list[Reject]]:
    """Read a file by its suffix, or a folder that `save_to_disk` of `datasets` wrote.

    Args:
        path: the file.
        name: how rejects name it.
        keep: what is done with each row before the next is read.

    Raises:
        DataError: a suffix that no reader knows, or a file that is not what its suffix says or may not be read.
    """
    lines: list[Line] = []
    rejects: list[Reject] = []
    for item in rows_of(path, name):
        if isinstance(item, Line):
            lines.append(keep(item))
        else:
            rejects.append(item)
    return lines, rejects


def rows_of(path: Path, name: str) -> Iterator[Line | Reject]:
    """Yield the rows of a file, or of a data set saved to disk, as `read_file` collects them. Raises DataError."""
    read = _saved if path.is_dir() else _reader(path, name)
    with readable(name):
        yield from read(path, name)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what the system or a decompressor says while a file is read into a DataError that names it."""
    try:
        yield
    except (EOFError, zlib.error) as e:
        raise DataError(f"{name}: cannot be decompressed ({e}); is it cut off?") from None
    except OSError as e:
        raise DataError(f"{name}: cannot be read ({e.strerror or e})") from None


def _reader(path: Path, name: str) -> _Reader:
    kind = path.suffixes[-2] if path.suffix in COMPRESSED and len(path.suffixes) > 1 else path.suffix
    if kind not in READERS:
        known = f"{', '.join(READERS)}, and each with {' or '.join(COMPRESSED)} behind it"
        raise DataError(f"{name}: unknown kind of file {kind!r}; known: {known}")
    return READERS[kind]


def _saved(folder: Path, name: str) -> Iterator[Line | Reject]:
    count = 0
    for path in arrow_files.saved_files(folder, name):
        for item in arrow_files.arrow_rows(path, name, count):
            yield item
            count += 1


def check_file(path: Path, name: str) -> None:
    """Raise DataError with what a path is when it is no file; opening a pipe would wait for its writer for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise DataError(f"{name}: a symbolic link to {path.readlink()}, which does not exist") from None
        near = nearest(path.name, [p.name for p in path.parent.glob("*")])
        hint = f"; did you mean {path.parent / near}?" if near else "; `dvc pull` fetches what is under DVC"
        raise DataError(f"{name}: no such file{hint}") from None
    except OSError as e:
        what = "a symbolic link that leads back to itself" if e.errno == errno.ELOOP else f"no path ({e.strerror})"
        raise DataError(f"{name}: {what}; name the file itself") from None
    except ValueError as e:
        raise DataError(f"{name!r}: no path ({e}); name a file") from None
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        arrow_files.saved_files(path, name)
        return
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a disk"}
    raise DataError(f"{name}: {kinds[stat.S_IFMT(mode)]}, not a file; write its content to a file first")


def content_digest(path: Path, name: str) -> str:
    """Compute the SHA-256 of a file, or of the hashes of the files of a data set saved to disk. Raises DataError."""
    if not path.is_dir():
        return sha256(path)
    return hashlib.sha256(
        "".join(f"{sha256(file)}\n" for file in arrow_files.saved_files(path, name)).encode()
    ).hexdigest()
