"""The first rows of a recipe's sources against the maps of its sets: columns, and whether rows come out of them.

Read is what is on this machine: files, hub ids with a folder in their place, packages that were unpacked before, and
what generators yield first. What cannot be looked at is said in one line. Pictures and sounds are left to the stage.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.check.files import Recipe, check_generator
from tasks.data import Config as DataConfig
from tasks.ingestion import files
from tasks.ingestion import sources as ingestion
from tasks.ingestion.lines import Line
from tasks.ingestion.mapping import MEDIA, check_map, columns, render, validate
from tasks.ingestion.settings import Rows
from tasks.ingestion.sources import FileSource, GeneratorSource, HubSource, PackageSource
from tasks.ingestion.values import BadRow
from tasks.ingestion.wheels import DOWNLOADS
from tasks.stage.errors import DataError, PolmError

MEDIA_KEYS = frozenset(MEDIA)
"""Keys of maps whose rows are not mapped here."""
FIRST = 50
"""Rows of a source that are mapped."""
FIRST_DRAWN = 4
"""The same of a source with pictures or sounds, which generators take time to draw."""
MOST_HASHED = 2**28
"""Bytes of a file whose SHA-256 is computed here; larger ones are left to the data stage."""
FURTHER = 20_000
"""Rows that are looked through for a column that none of the first has."""


def check(under_check: Recipe) -> Iterator[str]:
    """Check the maps of every set whose source can be looked at."""
    for path, config in _data(under_check):
        for name, source in config.sources.items():
            used = [
                (f"{path}: sets.{chosen}.rows.{at}.map", chosen, rows)
                for chosen, spec in config.sets.items()
                for at, rows in enumerate(spec.rows)
                if rows.source == name
            ]
            if isinstance(source, GeneratorSource) and any(check_generator(path, name, source)):
                continue  # said of the file by itself
            if used and not unseen(source):
                try:
                    yield from _check_source(path, name, source, used, config.max_bad_share)
                except PolmError as e:
                    yield f"{path}: sources.{name}: {e}"


def _data(under_check: Recipe) -> Iterator[tuple[Path, DataConfig]]:
    """Yield the data files of a recipe that can be made on this machine."""
    from tasks.stage import needs

    gone = needs.missing(under_check.graph)
    for file in sorted(under_check.configs):
        config = under_check.of(file, DataConfig)
        if config is not None and file.removesuffix(".yaml") not in gone:
            yield under_check.folder / file, config


def notices(under_check: Recipe) -> Iterator[str]:
    """Name the sources that no set uses, and those that cannot be looked at before they are fetched."""
    for path, config in _data(under_check):
        used = {rows.source for spec in config.sets.values() for rows in spec.rows}
        for name in sorted(set(config.sources) - used):
            yield f"{path}: sources.{name}: no set uses it"
        far = [
            f"{name} ({what})" for name in sorted(used & set(config.sources)) if (what := unseen(config.sources[name]))
        ]
        if far:
            yield f"{path}: not looked at, since they are fetched by the data stage: {', '.join(far)}"


def unseen(source: Any) -> str | None:
    """Name what is not on this machine of a source; None where its rows can be looked at.

    A generator that reads a data set of the hub names it in its option `hub`.
    """
    hub = source.options.get("hub") if isinstance(source, GeneratorSource) else getattr(source, "hub", None)
    if isinstance(hub, str) and not Path(hub).is_dir():
        return f"hub {hub}"
    if isinstance(source, PackageSource) and not _unpacked(source).is_file():
        return f"package {source.package}"
    return None


def _unpacked(source: PackageSource) -> Path:
    return DOWNLOADS / f"{source.package}-{source.version}" / "unpacked" / source.member


def _rows(name: str, source: Any, folder: Path) -> Iterable[Mapping[str, Any]]:
    """Yield the rows of a source, one after the other. Raises PolmError."""
    if isinstance(source, HubSource):
        few = {"streaming": True, "rows": FIRST, "split": source.split.partition("[")[0]}
        return [line.row for line in ingestion.read(name, source.model_copy(update=few), folder).lines]
    if isinstance(source, GeneratorSource):
        return (row for row in ingestion.find_generator(source, folder)(**source.options) if isinstance(row, dict))
    if isinstance(source, FileSource):
        files.check_file(source.file, str(source.file))
        if source.media is not None and not source.media.is_dir():
            raise DataError(f"{source.media}: no folder; 'media' is the folder of its pictures")
    path = source.file if isinstance(source, FileSource) else _unpacked(source)
    return (line.row for line in files.rows_of(path, str(path)) if isinstance(line, Line))


def _check_source(
    path: Path, name: str, source: Any, used: list[tuple[str, str, Rows]], max_bad_share: float
) -> Iterator[str]:
    """Check what pins one source, and all its maps. Raises PolmError where it cannot be read."""
    rows = iter(_rows(name, source, path.parent))
    if isinstance(source, FileSource) and source.sha256 is not None and source.file.stat().st_size <= MOST_HASHED:
        actual = files.content_digest(source.file, str(source.file))
        if source.sha256.lower() != actual:
            yield f"{path}: sources.{name}.sha256 is {source.sha256}, and {source.file} has {actual}; take one"
    drawn = any(not MEDIA_KEYS.isdisjoint(entry.map) for _, _, entry in used)
    first = list(itertools.islice(rows, FIRST_DRAWN if drawn else FIRST))
    if not first:
        yield f"{path}: sources.{name}: not one row could be read; check the file"
        return
    known = {column for row in first for column in row}
    wanted = {column for _, _, entry in used for column in columns(entry.map)}
    while wanted - known and (further := list(itertools.islice(rows, FURTHER))):
        known |= {column for row in further for column in row}
    for place, chosen, entry in used:
        try:
            check_map(place, chosen, entry.map, known)
        except DataError as e:
            yield str(e)
            continue
        if MEDIA_KEYS.isdisjoint(entry.map):
            yield from _bad(place, chosen, entry.map, first, max_bad_share)


def _bad(
    place: str, chosen: str, template: dict[str, Any], rows: list[Mapping[str, Any]], max_bad_share: float
) -> Iterator[str]:
    """Say that too many of the first rows are bad."""
    reasons = []
    for row in rows:
        try:
            validate(chosen, render(template, dict(row)))
        except BadRow as e:
            reasons.append(str(e))
    if len(reasons) > max(max_bad_share, 0.5) * len(rows):
        yield (
            f"{place}: {len(reasons)} of the first {len(rows)} rows cannot be used, over max_bad_share "
            f"{max_bad_share:g}, e.g. {reasons[0]}; correct the map, or the rows"
        )
