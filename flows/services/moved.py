"""A working copy that was moved or copied: MLflow's store knows its files by absolute addresses, which are mended here.

MLflow writes the address of every run, model and trace into its database, and has no command that changes one. The
store under `.polm/` moves with the working copy, so an address of its experiments that ends as ours does and begins
elsewhere is from before the move. Other addresses, and other stores, are never touched.
"""

import atexit
import logging
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.stage import artifact
from tasks.stage.errors import PolmError

log = logging.getLogger("polm")
DATABASE = artifact.STATE / "mlflow.db"
FILES = artifact.STATE / "mlartifacts"
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
"""Tables and columns of MLflow's database that hold addresses."""
WAIT_SECONDS = 60.0
"""Seconds that another program may take to write."""


def uri() -> str:
    """Write SQLAlchemy's address of the store under `.polm/`. Raises PolmError where its path makes that impossible."""
    path = DATABASE.resolve()
    if "?" in str(path):  # where a query begins: the store would be another file, outside
        raise PolmError(
            f"{path}: MLflow cannot open a store below a folder with a '?' in its name; rename that folder, or set "
            f"MLFLOW_TRACKING_URI to another store"
        )
    return f"sqlite:///{path}"


def is_ours(tracking_uri: str) -> bool:
    """Tell whether a tracking URI, however it is written, is the store under `.polm/`."""
    path = tracking_uri.removeprefix("sqlite:///")
    return path != tracking_uri and Path(path).resolve() == DATABASE.resolve()


def files() -> str:
    """Write the address of the folder with the store's files."""
    return FILES.resolve().as_uri()


def mended(*, writes: bool) -> str:
    """Address the store under `.polm/` for a command, once its files are known where they are now.

    A command that only reads, in a copy that is read-only or somebody else's, reads a mended copy of the database.

    Args:
        writes: whether the command changes the store.

    Raises:
        PolmError: another program keeps the database locked, or it cannot be written and has to be.
    """
    if not DATABASE.exists() or not _old():
        return uri()
    if writes or (os.access(DATABASE, os.W_OK) and os.access(DATABASE.parent, os.W_OK)):
        mend()
        return uri()
    scratch = tempfile.TemporaryDirectory(prefix="polm-")
    atexit.register(scratch.cleanup)
    copy = Path(scratch.name, DATABASE.name)
    with closing(sqlite3.connect(DATABASE)) as ours, closing(sqlite3.connect(copy)) as other:
        ours.backup(other)
    mend(copy)
    return f"sqlite:///{copy}"


def mend(store: Path = DATABASE) -> None:
    """Let the store under `.polm/` know its files where they are now, and say so; nothing happens when it does.

    All addresses are changed in one transaction, by the first of several commands that find them wrong.

    Args:
        store: database of the store, or a copy of it.

    Raises:
        PolmError: another program keeps the database locked, or it cannot be written.
    """
    if not DATABASE.exists() or not _old():
        return
    here = files()
    rows = 0
    try:
        with closing(sqlite3.connect(store, timeout=WAIT_SECONDS, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            folders = _elsewhere(database, here)  # again: another command may have been faster
            for old in folders:
                for table, column in _columns(database):
                    rows += _replace(database, table, column, old, here)
            database.execute("COMMIT")
    except sqlite3.OperationalError as e:
        locked = "lock" in str(e)
        remedy = "end the other programs that use it, and try again" if locked else "make it writable for you"
        raise PolmError(
            f"{DATABASE}: the working copy was moved, and the addresses in there cannot be mended ({e}); {remedy}"
        ) from e
    if rows:
        places = ", ".join(str(_path(old).parent.parent) for old in folders)
        log.warning("%s: this working copy was at %s; mended %d addresses of files", store, places, rows)


def _old() -> list[str]:
    """List what `_elsewhere` finds; nothing in a database that cannot be read, of which MLflow says more."""
    try:
        with closing(sqlite3.connect(DATABASE, timeout=WAIT_SECONDS)) as database:
            return _elsewhere(database, files())
    except sqlite3.DatabaseError:
        return []


def _elsewhere(database: sqlite3.Connection, here: str) -> list[str]:
    """List the folders that were `.polm/mlartifacts` of this store before."""
    end = "/".join(["", *here.split("/")[-2:]])
    query = "SELECT DISTINCT artifact_location FROM experiments WHERE name LIKE 'polm-%'"
    places = [place for (place,) in database.execute(query) if place and place != here and place.endswith(end)]
    return [place for place in places if place.startswith("file:") and not _still_there(database, place, here)]


def _still_there(database: sqlite3.Connection, place: str, here: str) -> bool:
    """Tell whether the runs' files are there and not here: another working copy writes to this store from there."""
    query = "SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, length(?) + 1) = ? || '/'"
    runs = [uri for (uri,) in database.execute(query, (place, place)) if _path(uri).exists()]
    return bool(runs) and not any(_path(here + uri.removeprefix(place)).exists() for uri in runs)


def _columns(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """List those of `ADDRESSES` that this database has: an older MLflow's has fewer, and MLflow adds them later."""
    query = "SELECT 1 FROM pragma_table_info(?) WHERE name = ?"
    return [column for column in ADDRESSES if database.execute(query, column).fetchone()]


def _replace(database: sqlite3.Connection, table: str, column: str, old: str, new: str) -> int:
    """Change the addresses in and below a folder; returns how many."""
    return database.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, length(?) + 1) "
        f"WHERE {column} = ? OR substr({column}, 1, length(?) + 1) = ? || '/'",
        (new, old, old, old, old),
    ).rowcount


def _path(address: str) -> Path:
    return Path(unquote(urlsplit(address).path))
