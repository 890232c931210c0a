"""Data sets of published benchmarks: loaded from the hub or from a folder in its place, and told apart for ever."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.stage.artifact import sha256
from tasks.stage.errors import DataError

CARD = "README.md"
"""File of a data set that says its licence."""


def load_splits(task: Any, place: str) -> Mapping[str, Any]:
    """Load the data set of a task of lm-evaluation-harness.

    Args:
        task: of which `config` names the data set.
        place: file and key of the recipe, for messages.

    Returns:
        Split to `datasets.Dataset`.

    Raises:
        DataError: it cannot be loaded, is not at hand, or has no split of that name.
    """
    import datasets
    import pyarrow

    config = task.config
    hub, name = config.dataset_path, config.dataset_name
    options = {key: value for key, value in (config.dataset_kwargs or {}).items() if key != "trust_remote_code"}
    try:
        if callable(config.custom_dataset):
            loaded = config.custom_dataset(**(config.metadata or {}), **(config.dataset_kwargs or {}))
        elif Path(hub).is_dir():  # the cache of `datasets` goes by a folder's name and would give what it held before
            with tempfile.TemporaryDirectory() as cache:
                loaded = datasets.load_dataset(hub, name, cache_dir=cache, keep_in_memory=True, **options)
        else:
            loaded = datasets.load_dataset(hub, name, **options)
    except (
        ImportError, OSError, OverflowError, RuntimeError, ValueError,
        pyarrow.ArrowException, datasets.exceptions.DatasetsError,
    ) as e:  # fmt: skip
        wanted = "".join(f", {key} {value}" for key, value in {"configuration": name, **options}.items() if value)
        raise DataError(
            f"{place}: the task {config.task} reads the data set {hub}{wanted}, which cannot be loaded "
            f"({type(e).__name__}: {e.__cause__ or e}); check the network (HF_HUB_OFFLINE must be unset for a first "
            f"download) and, where it is gated, your token, or put a folder of the same layout at {hub}"
        ) from e
    for split in filter(None, (config.test_split or config.validation_split, config.fewshot_split)):
        if split not in loaded:
            raise DataError(f"{place}: {hub} has no split '{split}', which the task {config.task} reads")
        if not len(loaded[split]):
            raise DataError(f"{place}: the split '{split}' of {hub} has no row; put one there that has")
    return dict(loaded)


def identity(task: Any, splits: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a data set is.

    Args:
        task: that reads it.
        splits: as `load_splits` returned them.

    Returns:
        `dataset`, `config`, `revision` (the hub's commit; null for a local folder), `licence` (null where the card
        gives none), and `files`: name to SHA-256 of a local folder's, or the names of those that the hub gave.
    """
    config = task.config
    hub = config.dataset_path
    said = {"dataset": hub, "config": config.dataset_name}
    if callable(config.custom_dataset) or hub is None:
        return {**said, "revision": None, "licence": None, "files": {}}
    folder = Path(hub)
    if folder.is_dir():
        files = {
            str(path.relative_to(folder)): sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }
        card = folder / CARD
        return {**said, "revision": None, "licence": _licence(card), "files": files}
    urls = sorted({url for rows in splits.values() for url in rows.info.download_checksums or {}})
    commits = {match[1] for url in urls if (match := re.match(rf"hf://datasets/{re.escape(hub)}@([^/]+)/", url))}
    revision = min(commits) if len(commits) == 1 else None
    return {**said, "revision": revision, "licence": _published_licence(hub, revision), "files": dict.fromkeys(urls)}


def _published_licence(hub: str, revision: str | None) -> str | None:
    """Read the licence in a data set's card on the hub; None where there is no card, or no way to it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return _licence(Path(hf_hub_download(hub, CARD, repo_type="dataset", revision=revision)))
    except (HfHubHTTPError, OSError, ValueError):
        return None


def _licence(card: Path) -> str | None:
    """Read `license` in the YAML block at the head of a card; None where there is none."""
    if not card.is_file():
        return None
    head = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.S)
    try:
        said = YAML(typ="safe").load(head[1]) if head else None
    except YAMLError:
        return None
    licence = said.get("license") if isinstance(said, dict) else None
    return ", ".join(map(str, licence)) if isinstance(licence, list) else licence
