"""Data sets as `datasets` loads them: pictures and sounds left undecoded, so that a bad one costs its row alone."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.ingestion.lines import Line, Reject, Stream
from tasks.stage.errors import DataError

_LOADING = (ImportError, OSError, OverflowError, RuntimeError, ValueError)
"""Built-in errors that `datasets` lets pass: a file it cannot parse, nesting too deep, a decoder that is not there."""


def undecoded(data: Any) -> Any:
    """Return a `datasets.Dataset` (or iterable one) whose pictures, sounds and videos stay bytes, or names of files."""
    for column, feature in (data.features or {}).items():
        plain = _undecoded(feature)
        if plain != feature:
            data = data.cast_column(column, plain)
    return data


def _undecoded(feature: Any) -> Any:
    """Copy a feature with everything in it undecoded, in lists and mappings too."""
    import copy

    if isinstance(feature, dict):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_undecoded(inner) for inner in feature]
    if getattr(feature, "decode", None) is True:
        feature = copy.copy(feature)
        feature.decode = False
    elif hasattr(feature, "feature"):
        feature = copy.copy(feature)
        feature.feature = _undecoded(feature.feature)
    return feature


def folders(hub: str) -> tuple[Path, ...]:
    """List where files may lie that rows of a data set name: its own folder, and the caches of what was downloaded."""
    import datasets
    from huggingface_hub import constants

    cache = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
    return (Path(hub), *map(Path, cache))


def fetched(value: Any, hub: str) -> Any:
    """Read the files of a data set that is read over the network, or out of an archive; others stay names.

    Args:
        value: of a column, at any depth of lists; files come as `{bytes, path}` without bytes.
        hub: the data set, whose own files alone are read: rows may name any address.
    """
    if isinstance(value, list):
        return [fetched(item, hub) for item in value]
    if not isinstance(value, dict) or set(value) != {"bytes", "path"} or value["bytes"] is not None:
        return value
    path = value["path"]
    if not isinstance(path, str):
        return value
    archive = path.rpartition("::")[2]
    home = next(
        (f for f in folders(hub) if "://" not in archive and Path(archive).resolve().is_relative_to(f.resolve())), None
    )
    if "://" not in path:  # said by the place in its folder, which is another one on every machine
        return value if home is None else {"bytes": None, "path": str(Path(path).resolve().relative_to(home.resolve()))}
    if home is None and not archive.startswith(f"hf://datasets/{hub}@"):
        return value
    import fsspec

    with fsspec.open(path, "rb") as file:
        return {"bytes": file.read(), "path": path.partition("::")[0]}


def stream(source: Any) -> Stream:
    """Begin to read a `HubSource`. Raises DataError where it cannot be loaded; so does taking its rows."""
    name = f"{source.hub}/{source.split}"
    data = _loaded(source, name)

    def rows() -> Iterator[Line | Reject]:
        with _loading(source, name):
            taken = itertools.islice(undecoded(data), source.rows)
            for i, row in enumerate(taken, 1):
                yield Line(i, {c: fetched(value, source.hub) for c, value in row.items()})

    def identity() -> dict[str, Any]:
        files = sorted(url for url in (data.info.download_checksums or {}) if url.startswith("hf://"))
        return {"kind": "hub", "files": files}

    return Stream(name, rows(), identity, folders(source.hub))


def _loaded(source: Any, name: str) -> Any:
    import datasets

    with _loading(source, name):
        return datasets.load_dataset(
            source.hub,
            source.config,
            split=source.split,
            revision=None if Path(source.hub).is_dir() else source.revision,
            streaming=source.streaming,
        )


@contextlib.contextmanager
def _loading(source: Any, name: str) -> Iterator[None]:
    """Turn what `datasets` raises into a DataError that says what to look at."""
    import datasets
    import pyarrow

    try:
        yield
    except (*_LOADING, pyarrow.ArrowException, datasets.exceptions.DatasetsError) as e:
        raise DataError(
            f"{name}: cannot be loaded ({type(e).__name__}: {e.__cause__ or e}); check the id, config, split and "
            f"revision, the network (HF_HUB_OFFLINE must be unset for a first download), or put a folder of the same "
            f"layout at {source.hub}"
        ) from None
