"""How much room the shared services have, as far as each can be asked: what none of them tells is a finding too.

PostgreSQL tells the size of a database, and its disk's free space where that disk is of this machine. S3 and the HTTP
interfaces of MLflow and Prefect tell neither; of what stores files, something of some size is therefore written, read
and deleted: a full disk or an exhausted quota refuses it.
"""

import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.doctor.machine import GIB, Finding
from flows.services import reach
from flows.sharing.remote import Remote

LITTLE = 5.0
"""GiB free below which a run may fill the disk."""
PROBE = 2**20
"""Bytes that are written for a trial: more than stores keep beside the name of an object."""
ON_ITS_MACHINE = "on its machine: `infra/services.sh status`, or `pg_database_size` and `df`"
FULL = re.compile(r"quota|no space|storage ?full|insufficient ?storage|disk full|\b507\b", re.I)
"""What servers say when they have no room; the codes are those of S3's extensions and of HTTP."""


def folder(name: str, place: Path) -> Finding:
    """Tell the free space of a folder's disk, and warn when it is little."""
    free = shutil.disk_usage(place).free / GIB
    remedy = "" if free > LITTLE else "free some: `dvc gc` deletes what no commit needs"
    return Finding("ok" if free > LITTLE else "warn", f"{name} space", f"{free:.1f} GiB free at {place}", remedy)


def untold(name: str, what: str) -> Finding:
    """Say that the free space is known to the service's own machine alone."""
    return Finding("note", f"{name} space", f"not known: {what}", ON_ITS_MACHINE)


def remote_objects(repo: Any, remote: Remote) -> Iterator[Finding]:
    """Put an object of 1 MiB into DVC's remote, read it and delete it; raises what DVC or the remote's client does.

    Args:
        repo: `dvc.repo.Repo` of the working copy.
        remote: its default remote, which has answered.
    """
    odb = repo.cloud.get_remote_odb(remote.name)
    name, content = odb.fs.join(odb.path, f"polm-doctor-{uuid.uuid4().hex}"), uuid.uuid4().bytes * (PROBE // 16)
    odb.fs.makedirs(odb.path, exist_ok=True)
    step = "put"
    try:
        odb.fs.pipe_file(name, content)
        step = "read"
        if odb.fs.cat_file(name) != content:
            yield Finding("fail", "DVC remote rights", "another object was read than the one that was put")
            return
        step = "deleted"
        odb.fs.rm_file(name)
    except OSError as e:
        why = reach.reason(e)
        yield Finding("fail", "DVC remote rights", f"an object cannot be {step}: {why}", _remedy(f"{why} {e}"))
        return
    yield Finding("ok", "DVC remote rights", "puts, reads and deletes objects")
    if remote.folder is None:
        yield Finding("note", "DVC remote space", "takes 1 MiB; how much more is not told by such a store", "")


def mlflow_files(location: str, tracking_uri: str) -> Iterator[Finding]:
    """Store a file of 1 MiB where MLflow keeps an experiment's artifacts, read it and delete it.

    A registry that answers while the store behind it does not would fail at the end of a promotion.

    Args:
        location: `artifact_location` of an experiment that we may write.
        tracking_uri: address of MLflow's server.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    folder_name, step = "polm-doctor", "stored"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, uuid.uuid4().hex)
        source.write_bytes(uuid.uuid4().bytes * (PROBE // 16))
        try:
            store = get_artifact_repository(location, tracking_uri=tracking_uri)
            store.log_artifact(str(source), folder_name)
            step = "read"
            there = Path(store.download_artifacts(f"{folder_name}/{source.name}", scratch))
            same = there.read_bytes() == source.read_bytes()
            step = "deleted"
            store.delete_artifacts(f"{folder_name}/{source.name}")
        except (MlflowException, OSError, *_client_errors()) as e:
            why = reach.reason(e)
            yield Finding("fail", "MLflow artifacts", f"a file cannot be {step}: {why}", _remedy(f"{why} {e}"))
            return
    if same:
        yield Finding("ok", "MLflow artifacts", "stores, reads and deletes files")
    else:
        yield Finding("fail", "MLflow artifacts", "another file was read than the one that was stored")


def database(name: str, uri: str) -> Iterator[Finding]:
    """Ask a PostgreSQL database for its version, clock, rights and size, and whether any password opens it.

    Args:
        name: service whose database it is.
        uri: SQLAlchemy's address, with the password.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    url = sqlalchemy.make_url(uri)
    yield _any_password(name, url)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:

            def ask(question: str) -> Any:
                return connection.execute(sqlalchemy.text(question)).scalar()

            yield Finding("ok", f"{name} version", f"PostgreSQL {ask('SHOW server_version')}")
            skew = abs(float(ask("SELECT extract(epoch FROM clock_timestamp())")) - time.time())
            level: Any = "ok" if skew <= LITTLE else "warn"
            found = "within 5 s of ours" if skew <= LITTLE else f"{skew:.0f} s from ours"
            yield Finding(level, f"{name} clock", found, "" if level == "ok" else "set both clocks by NTP")
            if ask("SELECT has_schema_privilege(current_schema(), 'CREATE')"):
                yield Finding("ok", f"{name} rights", "makes tables")
            else:
                yield Finding("fail", f"{name} rights", "may not make tables", "ask for the ownership of the database")
            size = f"{ask('SELECT pg_database_size(current_database())') / 2**20:.1f} MiB in use"
            place = Path(ask("SELECT current_setting('data_directory')"))
    except SQLAlchemyError as e:
        if "data_directory" in str(e):  # only for members of pg_read_all_settings
            yield untold(name, f"{size}; its disk is not told to this user")
            return
        yield Finding("fail", name, reach.shown(reach.reason(e)), "see that the database runs")
        return
    if url.host in ("127.0.0.1", "localhost", "::1") and place.exists():
        yield folder(f"{name} ({size})", place)
    else:
        yield untold(name, f"{size}; the disk is of another machine")


def _any_password(name: str, url: Any) -> Finding:
    """Tell whether the database opens with a password that is drawn here."""
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    engine = sqlalchemy.create_engine(url.set(password=uuid.uuid4().hex), poolclass=sqlalchemy.NullPool)
    try:
        engine.connect().close()
    except SQLAlchemyError:
        return Finding("ok", f"{name} access", "refuses a wrong password")
    return Finding("warn", f"{name} access", "opens with any password", "set `scram-sha-256` in its pg_hba.conf")


def _client_errors() -> tuple[type[Exception], ...]:
    import requests

    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return (requests.RequestException,)
    return (requests.RequestException, BotoCoreError, ClientError)


def _remedy(said: str) -> str:
    return "it has no room left: free some, or ask for a larger quota" if FULL.search(said) else "ask its owner"
