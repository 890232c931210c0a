"""Data sets as `datasets` loads them: pictures and sounds left undecoded, so that a bad one costs its row alone."""

from pathlib import Path
from typing import Any


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
