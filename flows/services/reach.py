"""Services outside: whether MLflow and Prefect answer, found out once and within seconds.

MLflow's and Prefect's own clients try again for a quarter of a minute, and for many when a server takes the connection
and says nothing. The first contact is therefore bounded, and says what was tried and for how long.
"""

import contextlib
import logging
import os
import re
import socket
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.stage.errors import PolmError, refusal

SECONDS = 5.0
"""Seconds that a server has for its first answer; `MLFLOW_HTTP_REQUEST_TIMEOUT` says otherwise for MLflow."""
_DATABASE = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:")
_IN_QUERY = re.compile(r"([?&](?:ssl)?(?:password|passwd|token|secret|key)=)[^&\s]+", re.I)
_ADDRESS = re.compile(r"[\w+.-]+://([^/\s]*@)?[^/\s:@]+(:\d+)?(/|$)")
_lock = threading.Lock()
_answered: set[str] = set()
"""Addresses that have answered this process, which are not asked again."""


class Pause:
    """Remembers that a server did not answer, so that it is left alone for a while: each try holds its caller up."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = 0.0

    @property
    def on(self) -> bool:
        """Whether the server did not answer a short time ago."""
        return time.monotonic() < self._end

    def refuse(self) -> None:
        """Raise PolmError while there is no point in asking."""
        if self.on:
            raise PolmError(f"MLflow did not answer; it is asked again after {self._seconds:.0f} s")

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the calls of the server in this block: one that nobody answers begins the pause, and is raised."""
        try:
            yield
        except Exception as e:
            if unreachable(e):
                self._end = time.monotonic() + self._seconds
            raise


def mlflow_client(uri: str) -> Any:
    """Connect to a store that must answer; create a local one the first time. Loads MLflow.

    Args:
        uri: address of a server or of a database.

    Raises:
        PolmError: it does not answer, cannot be opened, or is no address.
    """
    from mlflow import MlflowClient

    for name, level in (
        ("mlflow", logging.WARNING),
        ("alembic", logging.WARNING),
        ("mlflow.store.db.utils", logging.CRITICAL),  # a traceback of its own for an error that is raised too
    ):
        logging.getLogger(name).setLevel(level)
    with _lock:
        start = time.monotonic()
        try:
            if uri in _answered:
                return MlflowClient(uri)
            if _DATABASE.match(uri):
                _try_database(uri)
            with _bounded():
                api = MlflowClient(uri)
                api.search_experiments(max_results=1)
            _answered.add(uri)
            return api
        except Exception as e:
            raise PolmError(_mlflow_trouble(uri, e, time.monotonic() - start)) from e


def _try_database(uri: str) -> None:
    """Connect once, as MLflow does not: it tries for two minutes. Raises what the system or the driver says."""
    import sqlalchemy

    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise PolmError("names no file: a store in memory would end with this command, and all in it")
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb" if path.exists() else "ab"):  # the system's reason says more than SQLite's
            pass
    if url.host and url.port:
        socket.create_connection((url.host, url.port), timeout=SECONDS).close()
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        sqlalchemy.inspect(connection).get_table_names()


def require_writable(uri: str) -> None:
    """Raise PolmError for a file of SQLite that can only be read; a server decides for itself."""
    if uri.startswith("sqlite:///"):
        try:
            with Path(uri.removeprefix("sqlite:///")).open("ab"):
                pass
        except OSError as e:
            raise PolmError(_mlflow_trouble(uri, e, 0.0)) from e


def prefect(otherwise: str = "unset PREFECT_API_URL: a run then starts one of its own") -> None:
    """Ask the server at `PREFECT_API_URL` whether it is well.

    Args:
        otherwise: advice that helps as well as starting that server.

    Raises:
        PolmError: it is not there.
    """
    import httpx

    uri = os.environ["PREFECT_API_URL"]
    start = time.monotonic()
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=SECONDS, follow_redirects=True)
        if answer.status_code < 500 and answer.status_code != 404:
            return
        why = f"answers with status {answer.status_code}; the address of a Prefect server ends with /api"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
        why = f"{reason(e)}, tried for {time.monotonic() - start:.1f} s"
    raise PolmError(f"Prefect at {shown(uri)} (PREFECT_API_URL): {why}; start that server, or {otherwise}")


def unreachable(error: BaseException) -> bool:
    """Tell whether a call failed because nobody answered, or the database did not."""
    names = {f"{type(e).__module__.split('.')[0]}.{type(e).__name__}" for e in _chain(error)}
    roots = {name.split(".")[0] for name in names}
    return bool(
        roots & {"requests", "urllib3", "httpx", "httpcore", "sqlite3"} or "sqlalchemy.OperationalError" in names
    )


def reason(error: BaseException) -> str:
    """Say the innermost reason of a failed call, in a few words."""
    chain = list(_chain(error))
    if isinstance(error, PolmError):
        return str(error)
    if any("Timeout" in type(e).__name__ and "ConnectTimeout" not in type(e).__name__ for e in chain):
        return "it takes the connection and does not answer"
    for e in reversed(chain):
        if isinstance(e, OSError) and e.strerror and not isinstance(e.strerror, bytes):
            return refusal(e) or e.strerror.lower()
    first = shown(str(error)).strip().splitlines()
    return (
        textwrap.shorten(re.sub(r"^\(.*?\) ", "", first[0]), 300, placeholder=" …") if first else type(error).__name__
    )


def shown(uri: str) -> str:
    """Write an address, or a text with addresses in it, without the passwords: also one that holds `@`, `/` or `:`."""
    return _IN_QUERY.sub(r"\1***", re.sub(r"(://[^/\s:@]*):\S+@", r"\1:***@", uri))


def bare(uri: str) -> str:
    """Write an address without user and password: what others may see, and what a stranger asks."""
    user = r"://[^/\s]*@" if _ADDRESS.match(uri) else r"://\S+@"  # or a password that holds `/` is cut in two
    return re.sub(user, "://", uri)


def _mlflow_trouble(uri: str, error: Exception, seconds: float) -> str:
    why = reason(error)
    path = uri.removeprefix("sqlite:///")
    if path not in (uri, "", ":memory:"):
        if "file is not a database" in why:
            why = f"{why}; move it away: the next command begins a new one"
        return f"MLflow's store {path}: {why.removeprefix(f'{path}: ')}"
    remedy = "mend MLFLOW_TRACKING_URI, or unset it: the store is then a file under .polm/"
    if uri.startswith(("http:", "https:")):
        why = f"{why}, tried for {seconds:.1f} s"
        remedy = f"start that server, or {remedy}"
    return f"MLflow at {shown(uri)} (MLFLOW_TRACKING_URI): {why}; {remedy}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, outermost first."""
    ids: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in ids:
        ids.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Allow one try of `SECONDS` for each request: MLflow reads these variables at every call. The user's own stand."""
    bounds = {"MLFLOW_HTTP_REQUEST_TIMEOUT": f"{SECONDS:.0f}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    ours = {name: value for name, value in bounds.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
