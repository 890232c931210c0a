"""Make the store's buckets and MLflow's user `polm`, in a container beside the servers: `python prepare.py`.

It stands alone, with boto3, and may run again. Secrets are files in `/run/secrets`, addresses come by environment.
"""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SECRETS = Path("/run/secrets")
PATIENCE = 300.0
"""Seconds until the store and MLflow have to answer."""


def secret(name: str) -> str:
    """Read one of the secrets."""
    return (SECRETS / name).read_text(encoding="utf-8").strip()


def main() -> None:
    """Make what is not there. Raises what the store or MLflow says last when they do not answer in time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            _buckets()
            _user()
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(2)


def _buckets() -> None:
    import boto3

    keys = {"aws_access_key_id": "admin", "aws_secret_access_key": secret("store-admin")}
    store: Any = boto3.client("s3", endpoint_url=os.environ["STORE_URL"], region_name="us-east-1", **keys)
    there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
    for bucket in {"mlflow", "dvc"} - there:
        store.create_bucket(Bucket=bucket)


def _user() -> None:
    key = base64.b64encode(f"admin:{secret('mlflow-admin')}".encode()).decode()
    body = json.dumps({"username": "polm", "password": secret("mlflow-polm")}).encode()
    headers = {"Authorization": f"Basic {key}", "Content-Type": "application/json"}
    url = f"{os.environ['MLFLOW_URL']}/api/2.0/mlflow/users/create"
    try:
        urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30).close()
    except urllib.error.HTTPError as e:
        if b"RESOURCE_ALREADY_EXISTS" not in e.read():
            raise


if __name__ == "__main__":
    main()
