"""Where the services are: folder, ports, secrets, and the file of variables that their users source."""

import contextlib
import json
import os
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.stage import artifact, locks
from tasks.stage.errors import PolmError

HOST = "127.0.0.1"
FIRST_PORT = 15400
OFFSETS = {"postgres": 0, "store": 1, "mlflow": 2, "prefect": 3, "master": 4, "volume": 5, "filer": 6}
"""Service to its port, counted from the first one. SeaweedFS's own three parts also listen 10,000 ports higher."""
HOME = artifact.STATE / "services"
SECRETS = (
    "postgres", "mlflow", "mlflow_admin", "mlflow_database", "mlflow_session", "prefect", "prefect_database",
    "store_admin", "store_mlflow", "store_dvc", "volume_write", "volume_read", "filer_write", "filer_read",
)  # fmt: skip
BUCKETS = ("mlflow", "dvc")


@dataclass(frozen=True)
class Layout:
    """Everything that is drawn or chosen once, at the first start."""

    home: Path
    """Folder of the services, closed to others, absolute."""
    first_port: int
    secrets: dict[str, str]

    def port(self, service: str) -> int:
        """Return the port of a service."""
        return self.first_port + OFFSETS[service]

    def url(self, service: str) -> str:
        """Write the address of a service that talks HTTP."""
        return f"http://{HOST}:{self.port(service)}"

    def log(self, service: str) -> Path:
        """Name the log of a service."""
        return self.home / "logs" / f"{service}.log"

    def database(self, driver: str, user: str, password: str, name: str) -> str:
        """Write SQLAlchemy's address of a database, password included."""
        return f"{driver}://{user}:{self.secrets[password]}@{HOST}:{self.port('postgres')}/{name}"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep other commands of `infra/services.sh` in this working copy out of the block.

    Raises:
        PolmError: one of them is at work; two first starts would draw two sets of passwords.
    """
    HOME.parent.mkdir(exist_ok=True)
    with HOME.with_suffix(".lock").open("a") as file:
        if not locks.acquire(file):
            raise PolmError(f"{file.name}: another `infra/services.sh` is at work here; wait until it has ended")
        yield


def find() -> Layout | None:
    """Read the layout of an earlier start; None before the first one.

    Raises:
        PolmError: it is somebody else's, or damaged.
    """
    path = HOME.resolve() / "layout.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Layout(path.parent, values["first_port"], {name: values["secrets"][name] for name in SECRETS})
    except FileNotFoundError:
        return None
    except OSError as e:
        raise PolmError(f"{path}: {e.strerror}; the services belong to whoever started them") from None
    except (ValueError, KeyError, TypeError) as e:
        raise PolmError(
            f"{path}: unreadable ({type(e).__name__}: {e}); put its backup back: the databases need these passwords"
        ) from None


def make(first_port: int | None) -> Layout:
    """Read the layout, or draw its passwords and choose its ports at the first start.

    Args:
        first_port: first of the ports; None for the ones that are in use, or the default.

    Raises:
        PolmError: the services are already there on other ports.
    """
    found = find()
    if found and first_port not in (None, found.first_port):
        raise PolmError(
            f"the services of this working copy have the ports from {found.first_port} on; "
            f"`infra/services.sh destroy --yes` deletes them with all their data"
        )
    if found:
        return found
    home = HOME.resolve()
    for folder in (home, home / "logs"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    layout = Layout(home, first_port or FIRST_PORT, {name: secrets.token_hex(20) for name in SECRETS})
    private(home / "layout.json", json.dumps({"first_port": layout.first_port, "secrets": layout.secrets}))
    return layout


def private(path: Path, text: str) -> None:
    """Write a file that nobody else can read, not even while it is written; a reader finds the old or the new one."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    new.replace(path)


def variables(layout: Layout) -> dict[str, str]:
    """Name the environment variables by which `polm`, MLflow, Prefect and DVC use these services."""
    key = f"polm:{layout.secrets['prefect']}"
    return {
        "MLFLOW_TRACKING_URI": layout.url("mlflow"),
        "MLFLOW_TRACKING_USERNAME": "polm",
        "MLFLOW_TRACKING_PASSWORD": layout.secrets["mlflow"],
        "PREFECT_API_URL": f"{layout.url('prefect')}/api",
        "PREFECT_API_AUTH_STRING": key,
        "AWS_ACCESS_KEY_ID": "dvc",
        "AWS_SECRET_ACCESS_KEY": layout.secrets["store_dvc"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "DVC_GLOBAL_CONFIG_DIR": str(layout.home / "dvc"),
    }


def write_environment(layout: Layout) -> Path:
    """Write the variables for `source`, and DVC's configuration with the remote; returns the file of variables."""
    path = layout.home / "env"
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables(layout).items()]
    # A proxy does not reach the loopback of this machine.
    lines += [f"export {name}={HOST}${{{name}:+,${name}}}\n" for name in ("NO_PROXY", "no_proxy")]
    private(path, "".join(lines))
    (layout.home / "dvc").mkdir(exist_ok=True, mode=0o700)
    remote = f"url = s3://dvc/polm\n    endpointurl = {layout.url('store')}\n"
    text = f"[core]\n    remote = services\n['remote \"services\"']\n    {remote}"
    (layout.home / "dvc/config").write_text(text, encoding="utf-8")
    return path
