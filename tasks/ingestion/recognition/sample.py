"""A look at a data set that nobody has described: its columns, some of its rows, and how many there are."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.ingestion import hub
from tasks.ingestion.files import check_file, content_digest, rows_of
from tasks.ingestion.lines import COMPRESSED, Line
from tasks.stage.errors import DataError

KEPT = 1000
"""Rows that are looked at; more are only counted."""
COUNTED = 300_000
"""Rows of a file that are counted at most."""
FEW = 200
"""Rows of a hub data set that are looked at: each comes over the network."""
KINDS = {".jsonl": "JSON", ".json": "JSON", ".csv": "CSV", ".tsv": "CSV", ".parquet": "Parquet", ".arrow": "Arrow"}
"""Suffixes of files in a folder of rows, to the kind that `datasets` reads them as; it reads one kind and no other."""
DESCRIBING = ("dataset_info.json", "dataset_infos.json", "state.json")
"""Files beside rows that hold none."""


@dataclass(frozen=True)
class Sample:
    """Some rows of a source, and what `data.yaml` says of it."""

    name: str
    """What the source is called in messages."""
    source: dict[str, Any]
    """Its entry under `sources:`."""
    rows: list[dict[str, Any]]
    """The first rows, columns to values."""
    total: int
    """Rows that can be read."""
    at_least: bool
    """Whether there are more than `total`, which were not counted."""
    unreadable: int
    """Lines that are no rows."""
    reason: str = ""
    """File, line and fault of the first of those."""

    @property
    def columns(self) -> list[str]:
        """Columns of the rows, in the order in which they come."""
        return list(dict.fromkeys(column for row in self.rows for column in row))


def look(where: str, licence: str) -> Sample:
    """Read the first rows of a file, of a folder that `save_to_disk` wrote, or of a hub data set.

    Args:
        where: a path that exists, or a hub id, which may go on with the configuration and the split:
            `openai/gsm8k:main:train`. A folder with the layout of a hub data set is read as one.
        licence: of the data.

    Raises:
        DataError: there is nothing of that name, or not one row in it.
    """
    path = Path(where)
    saved = path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file())
    if path.is_file() or saved:
        sample = _file(path, where, licence)
    elif path.suffix and not path.exists() and "/" not in where.strip("./"):
        check_file(path, where)
        raise DataError(f"{where}: no such file")
    else:
        sample = _hub(where, licence)
    if not sample.rows and not sample.unreadable:
        raise DataError(f"{where}: not one row stands in it; check the path, and how the file was written")
    if not sample.rows:
        raise DataError(
            f"{where}: not one row that can be read, of {sample.unreadable} lines; the first: {sample.reason}"
        )
    return sample


def _file(path: Path, where: str, licence: str) -> Sample:
    check_file(path, where)
    rows: list[dict[str, Any]] = []
    total, unreadable, more, reason = 0, 0, False, ""
    for item in rows_of(path, where):
        if not isinstance(item, Line):
            unreadable += 1
            reason = reason or f"{item.file}:{item.line}: {item.reason}"
            continue
        if total == COUNTED:
            more = True
            break
        total += 1
        if len(rows) < KEPT:
            rows.append(item.row)
    source = {"file": where, "sha256": content_digest(path, where), "licence": licence}
    return Sample(where, source, rows, total, more, unreadable, reason)


def _hub(where: str, licence: str) -> Sample:
    import datasets

    name, _, rest = where.partition(":")
    config, _, split = rest.partition(":")
    local = Path(name).is_dir()
    if local:
        _check_kinds(Path(name), name)
    try:
        configs = datasets.get_dataset_config_names(name)
        if not config and len(configs) > 1:
            raise DataError(f"{name}: has several configurations; name one of them: {name}:{configs[0]}:train")
        revision = "main" if local else _commit(name)
        data = datasets.load_dataset(
            name, config or None, split=split or "train", streaming=True, revision=None if local else revision
        )
        stream = iter(hub.undecoded(data))
        rows = [dict(row) for row in itertools.islice(stream, KEPT if local else FEW)]
        told = data.info.splits or {}
        total = told[split or "train"].num_examples if (split or "train") in told else 0
        if local and not total:
            total = len(rows) + sum(1 for _ in itertools.islice(stream, COUNTED - len(rows)))
    except DataError:
        raise
    except Exception as e:
        raise DataError(
            f"{name}: neither a file here nor a data set that can be loaded ({type(e).__name__}: {e}); check the path, "
            f"or the id, configuration and split (`id:config:split`) and the network"
        ) from None
    source = {
        "hub": name, "revision": revision, "config": config or None, "split": split or "train", "streaming": not local,
        "rows": None, "licence": licence,
    }  # fmt: skip
    more = total == COUNTED if local else total < len(rows) or not total
    return Sample(where, source, rows, max(total, len(rows)), more, 0)


def _check_kinds(folder: Path, name: str) -> None:
    """Refuse a folder with files of rows of several kinds, unless its card says which are meant. Raises DataError."""
    card = folder / "README.md"
    if card.is_file() and "configs:" in card.read_text(encoding="utf-8", errors="replace"):
        return
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        inner = Path(path.stem) if path.suffix in COMPRESSED else path
        if inner.suffix in KINDS and path.name not in DESCRIBING and path.is_file():
            found.setdefault(KINDS[inner.suffix], str(path.relative_to(folder)))
    if len(found) > 1:
        listed = " and ".join(f"{kind} ({file})" for kind, file in found.items())
        raise DataError(
            f"{name}: a folder with rows in {listed}, of which one kind alone would be read; name the files "
            f"themselves, each by a `--data` of its own"
        )


def _commit(name: str) -> str:
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(name).sha)
