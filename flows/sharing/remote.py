"""The DVC remote of this working copy: which one it is, and whether it answers.

The remote is DVC's own (`dvc remote add -d NAME URL`); nothing of it is configured here. Objects lie in it by their
hash; beside them lies DVC's run-cache, a small file for each run that says which outputs came of which inputs.
"""

import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.services import reach
from tasks.stage.errors import ConfigError, PolmError

ADD = "`dvc remote add -d NAME URL`"
CLIENTS = {"dvc", "dvc_objects", "dvc_data", "dvc_s3", "botocore", "aiobotocore", "s3fs", "aiohttp", "fsspec"}
"""Packages whose errors say something of the remote."""
LEAVE = "`polm run --pull never` goes on without it"


@dataclass(frozen=True)
class Remote:
    """The default remote of DVC's configuration."""

    name: str
    url: str
    """Address, without the password that it may hold."""
    endpoint: str | None
    """Address of an S3-compatible server of one's own; None for the provider's."""

    def __str__(self) -> str:
        """Write the remote as people are shown it."""
        return f"DVC remote '{self.name}' ({self.url})"

    @property
    def folder(self) -> Path | None:
        """Folder of a remote that is one; None for a server."""
        return Path(self.url) if "://" not in self.url else None


def configured(repo: Any) -> Remote | None:
    """Read the default remote from DVC's configuration.

    Args:
        repo: `dvc.repo.Repo` of the working copy.

    Returns:
        The remote; None where no remote is configured at all.

    Raises:
        ConfigError: remotes are configured and none is the default, or the default has no entry.
    """
    remotes, name = repo.config["remote"], repo.config["core"].get("remote")
    if name is None and not remotes:
        return None
    if name is None:
        raise ConfigError(
            f".dvc/config: DVC remotes {', '.join(sorted(remotes))}, and none is the default: "
            f"`dvc remote default NAME`; {LEAVE}"
        )
    if name not in remotes:
        raise ConfigError(f".dvc/config: core.remote is '{name}', and there is no such remote; {ADD}")
    entry = remotes[name]
    return Remote(name, reach.shown(str(entry["url"])), entry.get("endpointurl"))


def required(repo: Any) -> Remote:
    """Read the default remote. Raises ConfigError where there is none."""
    remote = configured(repo)
    if remote is None:
        raise ConfigError(f".dvc/config: no DVC remote to push to; {ADD}")
    return remote


def contact(repo: Any, remote: Remote) -> bool:
    """Ask the remote for what is in it, once, with the credentials of the environment.

    Returns:
        Whether anything can be in it: False for a folder or prefix that is not there yet.

    Raises:
        PolmError: it does not answer, refuses the credentials, has no such bucket, or DVC lacks the package for it.
    """
    if remote.folder is not None:
        return remote.folder.is_dir()
    if remote.endpoint:
        parts = urlsplit(remote.endpoint)
        try:
            address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
            socket.create_connection(address, timeout=reach.SECONDS).close()
        except (OSError, ValueError) as e:
            raise PolmError(
                f"{remote}: {remote.endpoint} does not answer ({reach.reason(e)}); start that server, or {LEAVE}"
            ) from e
    with troubles(remote):
        odb = repo.cloud.get_remote_odb(remote.name)
        bucket = odb.path.partition("/")[0]
        with quiet():
            if remote.url.startswith("s3:"):
                odb.fs.ls(bucket)  # `exists` says False of what it may not see
            return bool(odb.fs.exists(odb.path))


@contextlib.contextmanager
def troubles(remote: Remote, remedy: str = LEAVE) -> Iterator[None]:
    """Make a PolmError of what DVC, the client of the remote or the system raises in this block.

    Args:
        remote: the one that is asked.
        remedy: what the message advises.
    """
    try:
        yield
    except Exception as e:
        if not isinstance(e, OSError) and type(e).__module__.partition(".")[0] not in CLIENTS:
            raise  # ours, or a bug
        raise PolmError(f"{remote}: {_reason(e)}; {remedy}") from e


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what DVC and the clients of the remote log to themselves: their errors are raised too."""
    names = ("aiobotocore", "botocore", "s3fs", "asyncio", "dvc")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _reason(error: BaseException) -> str:
    from dvc.fs import RemoteMissingDepsError

    if isinstance(error, RemoteMissingDepsError):
        scheme = str(error).partition("URL: ")[2].partition(":")[0].strip("'\" ") or "s3"
        return f"DVC lacks a package for it; `pip install 'dvc[{scheme}]'`"
    name = type(error).__name__
    if name == "NoCredentialsError":
        return "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if isinstance(error, PermissionError) or name in ("ClientError", "AuthError"):
        return f"refuses the credentials of the environment ({reach.reason(error)})"
    if isinstance(error, FileNotFoundError):
        return f"no such bucket ({reach.reason(error)})"
    return f"{name}: {reach.reason(error)}"
