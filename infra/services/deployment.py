"""Write the secrets of `infra/compose.yaml` and `infra/k8s/`: `python -m infra.services.deployment FOLDER`.

Each secret is a file of the folder, which nobody else can read. Nothing has a default, and nothing is printed.
"""

import json
import secrets
import sys
from pathlib import Path

from infra.services.layout import private
from tasks.stage.errors import PolmError

DRAWN = (
    "postgres", "mlflow-database", "prefect-database", "mlflow-admin", "mlflow-polm", "mlflow-session", "prefect-polm",
    "store-admin", "store-mlflow", "store-dvc", "store-volume-token", "store-filer-token",
)  # fmt: skip
"""Secrets that are drawn: 40 hexadecimal digits each."""
MADE = ("mlflow-auth.ini", "mlflow-uri", "prefect-uri", "prefect-key", "s3.json")
"""Secrets that hold others, as the servers want to read them."""


def write(folder: Path) -> None:
    """Draw every secret into a folder that is not there yet. Raises PolmError when it is: others use what is in it."""
    if folder.exists():
        raise PolmError(f"{folder}: is there already; servers that were started with its secrets need them")
    folder.mkdir(parents=True, mode=0o700)
    drawn = {name: secrets.token_hex(20) for name in DRAWN}
    server = f"mlflow:{drawn['mlflow-database']}@postgres:5432"
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": drawn[f"store-{name}"]}], "actions": actions}
        for name, actions in (
            ("admin", ["Admin"]),
            *(
                (bucket, [f"{verb}:{bucket}" for verb in ("Read", "Write", "List", "Tagging")])
                for bucket in ("mlflow", "dvc")
            ),
        )
    ]
    made = {
        "mlflow-auth.ini": "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = postgresql://{server}/mlflow_auth\nadmin_username = admin\n"
        f"admin_password = {drawn['mlflow-admin']}\n",
        "mlflow-uri": f"postgresql://{server}/mlflow",
        "prefect-uri": f"postgresql+asyncpg://prefect:{drawn['prefect-database']}@postgres:5432/prefect",
        "prefect-key": f"polm:{drawn['prefect-polm']}",
        "s3.json": json.dumps({"identities": identities}),
    }
    for name, text in (drawn | made).items():
        private(folder / name, text)


def main() -> int:
    """Run the command; returns its exit code."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m infra.services.deployment FOLDER\n")
        return 2
    try:
        write(Path(sys.argv[1]))
    except PolmError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
