"""The servers and the remote that others use too: do they know us, keep strangers out, fit our versions, tell our time?

What is asked here is real: an experiment's tag is written in MLflow, a flow's name in Prefect, and a file is put into
MLflow's store and into DVC's remote, read and deleted. Nothing is left of it but the experiment `polm-doctor-USER` and
the name `polm`.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.doctor import space
from flows.doctor.machine import Finding
from flows.services import reach
from flows.sharing import remote as remotes
from flows.tracking import client
from tasks.stage.errors import PolmError

SKEW = 5.0
"""Seconds by which a clock may be outside the time in which the answer came."""
SIGNED = 900.0
"""Seconds at which S3 refuses a request, because its signature is of another time."""


def examine() -> Iterator[Finding]:
    """Check each service that the environment or DVC's configuration names; none where it names none."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http:", "https:")):
        yield from _guarded("MLflow", mlflow)
    elif uri.startswith("postgresql"):
        yield from _guarded("MLflow", lambda: space.database("MLflow", uri))
    if "PREFECT_API_URL" in os.environ:
        yield from _guarded("Prefect", prefect)
    yield from _guarded("DVC remote", dvc_remote)


def mlflow() -> Iterator[Finding]:
    """Check MLflow's server: strangers, version, clock, the right to write an experiment and to read the registry."""
    from mlflow.exceptions import MlflowException

    url = os.environ["MLFLOW_TRACKING_URI"].rstrip("/")
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
    auth = (user, password) if user else None
    probe = f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0"
    yield from strangers("MLflow", probe)
    if (status := _get(probe, auth).status_code) == 401:
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        yield Finding("fail", "MLflow rights", f"refuses these credentials ({status})", remedy)
        return
    api = client.client()
    answer = _get(f"{url}/version", auth)
    yield from versions("MLflow", answer.text.strip() if answer.status_code == 200 else "", version("mlflow"))
    yield from clock("MLflow", answer)
    name = f"polm-doctor-{user or 'anybody'}"
    try:
        found = api.get_experiment_by_name(name)
        number = found.experiment_id if found else api.create_experiment(name)
        api.set_experiment_tag(number, "checked", time.strftime("%Y-%m-%d %H:%M:%S"))
        api.search_registered_models(max_results=1)
        yield Finding("ok", "MLflow rights", "writes experiments, reads the registry")
        yield from space.mlflow_files(api.get_experiment(number).artifact_location, url)
    except MlflowException as e:
        remedy = "ask its administrator for the right to create experiments and to read registered models"
        yield Finding("fail", "MLflow rights", reach.reason(e), remedy)
    yield space.untold("MLflow", "its database is behind the server")


def prefect() -> Iterator[Finding]:
    """Check Prefect's server: strangers, our key, version, clock, and the right to write."""
    import httpx

    url = os.environ["PREFECT_API_URL"].rstrip("/")
    key = os.environ.get("PREFECT_API_AUTH_STRING", "")
    user, colon, password = key.partition(":")
    auth = (user, password) if colon else None
    yield from strangers("Prefect", f"{url}/admin/version")
    answer = _get(f"{url}/admin/version", auth)
    if answer.status_code in (401, 403):
        remedy = "set PREFECT_API_AUTH_STRING to the server's key, USER:PASSWORD"
        yield Finding("fail", "Prefect rights", f"refuses this key ({answer.status_code})", remedy)
        return
    yield from versions("Prefect", str(answer.json()) if answer.status_code == 200 else "", version("prefect"))
    yield from clock("Prefect", answer)
    written = httpx.post(f"{url}/flows/", json={"name": "polm"}, auth=auth, timeout=reach.SECONDS)  # there or made
    if written.status_code in (200, 201):
        yield Finding("ok", "Prefect rights", "writes flows")
    else:
        yield Finding("fail", "Prefect rights", f"does not write a flow ({written.status_code})", "see its log")
    yield space.untold("Prefect", "its database is behind the server")


def dvc_remote() -> Iterator[Finding]:
    """Check the default DVC remote: does it answer and keep strangers out; can an object be put, read and deleted."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo()
    except (DvcException, OSError, sqlite3.Error):
        return  # the check of DVC's own files says why: no repository, a full disk, a folder of somebody else
    remote = remotes.configured(repo)
    if remote is None:
        return
    there = remotes.contact(repo, remote)
    yield Finding("ok", "DVC remote", f"{remote} {'answers' if there else 'is empty yet'}")
    if remote.endpoint and remote.url.startswith("s3://"):
        bucket = remote.url.removeprefix("s3://").partition("/")[0]
        address = f"{remote.endpoint.rstrip('/')}/{bucket}"
        yield from strangers("DVC remote", address)
        yield from clock("DVC remote", _get(address, None), SIGNED)
    with remotes.troubles(remote), remotes.quiet():
        yield from space.remote_objects(repo, remote)
    if remote.folder is not None and there:
        yield space.folder("DVC remote", remote.folder)
    cache = Path(repo.cache.local.path)
    if cache.exists():
        yield space.folder("DVC cache", cache)


def strangers(name: str, url: str) -> Iterator[Finding]:
    """Tell whether a request without credentials is refused; it is a GET of something that is there on every server."""
    status = _get(reach.bare(url), None).status_code
    if status in (401, 403):
        yield Finding("ok", f"{name} access", f"refuses requests without credentials ({status})")
    else:
        remedy = "let it ask for a password (docs/services.md): whoever reaches it can change results"
        yield Finding("warn", f"{name} access", f"answers without credentials ({status})", remedy)


def versions(name: str, theirs: str, ours: str) -> Iterator[Finding]:
    """Compare the server's version with that of the client here, up to the second number."""
    if not theirs:
        yield Finding("warn", f"{name} version", "the server does not tell it", f"compare it with {ours} by hand")
    elif theirs.split(".")[:2] == ours.split(".")[:2]:
        yield Finding("ok", f"{name} version", theirs)
    else:
        found = f"the server is {theirs}, the client here {ours}"
        yield Finding("warn", f"{name} version", found, "bring them to the same one: a newer client may ask in vain")


def clock(name: str, answer: Any, limit: float | None = None) -> Iterator[Finding]:
    """Compare the server's clock with ours, by the date of an answer that has just come; it has whole seconds.

    Args:
        name: service.
        answer: `httpx.Response`.
        limit: seconds from which on the service refuses us; None where it never does.
    """
    if "date" not in answer.headers:
        return
    now, theirs = time.time(), parsedate_to_datetime(answer.headers["date"]).timestamp()
    asked = now - answer.elapsed.total_seconds() - 1  # whole seconds
    skew = max(asked - theirs, theirs - now, 0.0)
    if skew <= SKEW:
        yield Finding("ok", f"{name} clock", "within 5 s of ours")
        return
    refused = limit is not None and skew > limit
    yield Finding("fail" if refused else "warn", f"{name} clock", f"{skew:.0f} s from ours", "set both clocks by NTP")


def _get(url: str, auth: Any) -> Any:
    """Ask without the credentials that a `.netrc` or the address may hold."""
    import httpx

    with httpx.Client(trust_env=False, timeout=reach.SECONDS) as http:
        return http.get(url, auth=auth)


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Make a finding of a service that fails in the middle of its check."""
    import httpx

    try:
        yield from check()
    except PolmError as e:
        found, _, remedy = str(e).partition("; ")
        yield Finding("fail", name, found, remedy)
    except httpx.HTTPError as e:
        yield Finding("fail", name, reach.reason(e), "see that the server runs")
    except OSError as e:
        yield Finding("fail", name, f"{e.filename or 'not checked'}: {e.strerror}", "see the checks above")
