"""PostgreSQL for MLflow and Prefect: Debian's, with passwords, on one port of loopback and no socket."""

import os
import pwd
import re
import shutil
import signal
import subprocess
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

from infra.services import processes
from infra.services.layout import HOST, Layout, private
from tasks.stage.errors import PolmError

NAME = "postgres"
USER = "postgres"
"""User of the database's processes where root starts them: PostgreSQL refuses to run as root."""
DATABASES = {"mlflow": "mlflow", "mlflow_auth": "mlflow", "prefect": "prefect"}
"""Database to its owner."""
OWNERS = {"mlflow": "mlflow_database", "prefect": "prefect_database"}
"""Owner to the name of its password."""


def start(layout: Layout) -> bool:
    """Start the server, on a new cluster the first time; returns whether it had to be started.

    Raises:
        PolmError: PostgreSQL or its driver is missing, or its port is taken.
    """
    programs = _programs()
    data = folder(layout)
    user = USER if os.geteuid() == 0 else None
    if not (data / "PG_VERSION").exists():
        _create(programs, data, layout, user)
    command = [str(programs / "postgres"), "-D", str(data)]
    return processes.start(layout, NAME, command, [layout.port(NAME)], {}, folder=Path("/"), user=user)


def folder(layout: Layout) -> Path:
    """Name the folder of the cluster: under `.polm/`, or where the user `postgres` may go when root starts it."""
    if os.geteuid() != 0:
        return layout.home / "postgres"
    return Path(_account().pw_dir) / f"polm-{sha256(str(layout.home).encode()).hexdigest()[:12]}"


def healthy(layout: Layout) -> bool:
    """Tell whether it takes a connection with the administrator's password."""
    import psycopg2

    try:
        _connect(layout, "postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


def refuses(layout: Layout) -> bool:
    """Tell whether it refuses a connection without the password."""
    import psycopg2

    try:
        psycopg2.connect(host=HOST, port=layout.port(NAME), user="polm", dbname="postgres", password="").close()
    except psycopg2.OperationalError:
        return True
    return False


def prepare(layout: Layout) -> None:
    """Make the databases, each with an owner of its own that cannot open the other's."""
    from psycopg2 import sql

    with closing(_connect(layout, "postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for owner, password in OWNERS.items():
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (owner,))
            verb = "ALTER" if cursor.fetchone() else "CREATE"
            statement = sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}")
            cursor.execute(statement.format(sql.Identifier(owner), sql.Literal(layout.secrets[password])))
        for database, owner in DATABASES.items():
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
            if not cursor.fetchone():
                names = sql.Identifier(database), sql.Identifier(owner)
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))
            cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))


def sizes(layout: Layout) -> dict[str, int]:
    """Ask for the size of each database. Raises `psycopg2.Error` when the server does not answer.

    Returns:
        Database to its bytes on disk.
    """
    with closing(_connect(layout, "postgres")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname, pg_database_size(datname) FROM pg_database")
        return {name: int(size) for name, size in cursor.fetchall() if name in DATABASES}


def end(layout: Layout) -> bool:
    """End the server, its clients' connections first; returns whether it ran."""
    return processes.end(layout, NAME, signal.SIGINT)


def delete(layout: Layout) -> None:
    """Delete the cluster with all that is in it."""
    shutil.rmtree(folder(layout), ignore_errors=True)


def _create(programs: Path, data: Path, layout: Layout, user: str | None) -> None:
    """Make a cluster that asks everybody for a password."""
    if data.exists() and any(data.iterdir()):
        raise PolmError(f"{data}: holds files and no database; move it away")
    final, data = data, data.with_name(f"{data.name}.new")
    shutil.rmtree(data, ignore_errors=True)  # of a first start that was killed
    data.mkdir(parents=True, mode=0o700)
    password = data.with_name(f"{data.name}.password")
    private(password, layout.secrets["postgres"])
    if user:
        account = _account()
        for path in (data, password):
            os.chown(path, account.pw_uid, account.pw_gid)
    command = [str(programs / "initdb"), "-D", str(data), "-U", "polm", f"--pwfile={password}", "--data-checksums"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
    try:
        done = subprocess.run(
            command, user=user, group=user, extra_groups=None if user is None else [],
            cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        password.unlink()
    if done.returncode:
        raise PolmError(f"PostgreSQL's initdb failed: {done.stderr.strip().splitlines()[-1]}")
    settings = {"listen_addresses": f"'{HOST}'", "port": layout.port(NAME), "unix_socket_directories": "''"}
    settings |= {"password_encryption": "'scram-sha-256'", "max_connections": 100}
    settings |= {"log_min_error_statement": "panic"}  # a statement that fails may hold a password
    with (data / "postgresql.conf").open("a", encoding="utf-8") as f:
        f.writelines(f"{key} = {value}\n" for key, value in settings.items())
    if final.exists():
        final.rmdir()
    data.rename(final)


def _programs() -> Path:
    """Find the newest PostgreSQL's programs."""
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        raise PolmError("PostgreSQL's driver is missing; `infra/services/setup.sh .venv`") from None
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else list(Path("/usr/lib/postgresql").glob("*/bin"))
    places = [place for place in places if (place / "initdb").exists() and (place / "postgres").exists()]
    if not places:
        raise PolmError("PostgreSQL is missing; `apt-get install postgresql`")
    return max(places, key=lambda place: int((re.findall(r"\d+", str(place)) or ["0"])[0]))


def _account() -> Any:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        raise PolmError(
            f"there is no user '{USER}', as which root starts PostgreSQL; `apt-get install postgresql`"
        ) from None


def _connect(layout: Layout, database: str) -> Any:
    import psycopg2

    return psycopg2.connect(
        host=HOST, port=layout.port(NAME), user="polm", password=layout.secrets["postgres"], dbname=database,
        connect_timeout=5,
    )  # fmt: skip
