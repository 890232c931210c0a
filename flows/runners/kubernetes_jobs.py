"""A stage as a Job of Kubernetes: one pod, its output by the log API, the Job deleted with its pod at the end.

Kubernetes' own retries are off (`backoffLimit: 0`, `restartPolicy: Never`): it does not know whether a lost pod had
finished. `polm run` tries again itself, after it has looked for the result.
"""

import contextlib
import queue
import threading
import time
import uuid
from functools import partial
from typing import Any

from flows.runners import travel
from flows.runners.listening import Lines, Lost, Waiting
from flows.runners.local import Job
from flows.runners.settings import Kubernetes, Runners
from tasks.stage.errors import PolmError

LOOK = 0.2
"""Seconds to wait for output before the run is asked whether it is to end."""
ASK = 2.0
"""Seconds between two questions about a pod."""
GRACE = 30
"""Seconds that a deleted pod has to end its processes."""
WAITING = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError")
"""Reasons of a waiting container that no waiting mends."""
LABEL = "polm-owner"
"""Label of every Job of a working copy, with its name."""


def run(job: Job, runners: Runners, settings: Kubernetes, stopping: threading.Event) -> str:
    """Run one stage on a Kubernetes cluster to its end.

    Returns:
        `done`, or `restored` when the DVC remote had the result.

    Raises:
        StageFailed: it failed or took longer than its time, or its pod was lost; its Job is deleted.
        Stopped: `stopping` was set; its Job is deleted.
        PolmError: the package is missing, or the cluster refuses the Job.
    """
    return travel.run(job, runners, settings, partial(lines, settings, job.gpu_count), stopping)


def manifest(settings: Kubernetes, gpus: int, name: str, script: str) -> dict[str, Any]:
    """Build the Job that runs a script, as the API takes it.

    Args:
        settings: the runner's section.
        gpus: GPUs that the stage asks for.
        name: of the Job; its second part is the working copy's.
        script: what the container's shell runs.
    """
    limits = {settings.gpu_resource: str(gpus)} if gpus else {}
    volumes = {claim: f"claim-{number}" for number, claim in enumerate(settings.claims)}
    container = {
        "name": "stage",
        "image": settings.image,
        "command": ["/bin/sh", "-c", script],
        "resources": {"limits": limits},
        "envFrom": [{"secretRef": {"name": secret}} for secret in settings.secrets],
        "volumeMounts": [{"name": volumes[claim], "mountPath": at} for claim, at in settings.claims.items()],
    }
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": settings.node_selector,
        "terminationGracePeriodSeconds": GRACE,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [
            {"name": volume, "persistentVolumeClaim": {"claimName": claim}} for claim, volume in volumes.items()
        ],
    }
    labels = {LABEL: name.split("-")[1]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def lines(settings: Kubernetes, gpus: int, name: str, script: str) -> Lines:
    """Create a Job and yield its pod's log; the Job is deleted when the generator is closed.

    Args:
        settings: the runner's section.
        gpus: to ask for.
        name: of the Job; its second part is the working copy's.
        script: for the shell of the container.
    """
    client, batch, core = connected(settings)
    name = f"{name[:50]}-{uuid.uuid4().hex[:8]}"  # 63 characters at most, and of one attempt alone
    try:
        batch.create_namespaced_job(settings.namespace, manifest(settings, gpus, name, script))
    except client.ApiException as e:
        raise PolmError(f"Kubernetes refuses the Job: {e.status} {e.reason}; see its message: {e.body}") from None
    try:
        pod = yield from _started(client, core, settings.namespace, name)
        yield from _log(client, core, settings.namespace, pod)
    finally:
        _delete(client, batch, core, settings.namespace, name)


def _started(client: Any, core: Any, namespace: str, name: str) -> Any:
    """Yield None, or why it waits, until the Job's pod writes a log; returns the pod's name.

    Raises `Lost` where that won't happen.
    """
    while True:
        pods = _ask(client, core.list_namespaced_pod, namespace, label_selector=f"job-name={name}")
        for pod in pods.items if pods else ():
            waiting = [c.state.waiting for c in pod.status.container_statuses or () if c.state.waiting]
            for state in waiting:
                if state.reason in WAITING:
                    raise Lost(f"Kubernetes: {state.reason}: {state.message}")
            if pod.status.phase in ("Running", "Succeeded", "Failed"):
                return pod.metadata.name
            for condition in pod.status.conditions or ():
                if condition.type == "PodScheduled" and condition.status == "False":
                    yield Waiting(f"Kubernetes: {condition.reason}: {condition.message}")
            for state in waiting:
                yield Waiting(f"Kubernetes: {state.reason}: {state.message or 'no message'}")
        until = time.monotonic() + ASK
        while time.monotonic() < until:
            yield None
            time.sleep(LOOK)


def _log(client: Any, core: Any, namespace: str, pod: str) -> Lines:
    """Yield a pod's log to its end. Raises `Lost` when the pod is gone, or failed."""
    heard: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
    follower = threading.Thread(target=_follow, args=(core, namespace, pod, heard), name="pod log", daemon=True)
    follower.start()
    rest, asked = b"", time.monotonic()
    while True:
        try:
            said = heard.get(timeout=LOOK)
        except queue.Empty:
            yield None
            if time.monotonic() - asked > ASK:
                asked = time.monotonic()
                _look(client, core, namespace, pod)
            continue
        if not isinstance(said, bytes):
            _look(client, core, namespace, pod)
            raise Lost(f"Kubernetes: the log of pod {pod} ended{f' ({said})' if said else ''}")
        *whole, rest = (rest + said).split(b"\n")
        yield from (f"{line.decode('utf-8', errors='replace')}\n" for line in whole)


def _follow(core: Any, namespace: str, pod: str, heard: "queue.SimpleQueue[bytes | Exception | None]") -> None:
    """Put what a pod says into a queue, then None, or the error that ended it."""
    try:
        answer = core.read_namespaced_pod_log(pod, namespace, follow=True, _preload_content=False)
        for said in answer.stream(amt=None, decode_content=False):  # as it comes, and not in blocks
            heard.put(said)
        heard.put(None)
    except Exception as e:
        heard.put(e)


def _look(client: Any, core: Any, namespace: str, pod: str) -> None:
    """Raise `Lost` when a pod is gone or its node is not there any more."""
    found = _ask(client, core.read_namespaced_pod, pod, namespace)
    if found is None:
        raise Lost(f"Kubernetes: pod {pod} is gone: its node was lost, or somebody deleted it")
    for condition in found.status.conditions or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            raise Lost(f"Kubernetes: pod {pod} is being ended: {condition.reason}: {condition.message}")
    if found.status.reason in ("NodeLost", "Evicted"):
        raise Lost(f"Kubernetes: pod {pod}: {found.status.reason}")


def _ask(client: Any, question: Any, *arguments: Any, **named: Any) -> Any:
    """Ask the API; None where there is no such thing. An API that is away for a moment is asked again, three times."""
    for attempt in range(4):
        try:
            return question(*arguments, **named)
        except client.ApiException as e:
            if e.status == 404:
                return None
            if e.status < 500 or attempt == 3:
                raise Lost(f"Kubernetes: {e.status} {e.reason}") from None
        except Exception as e:  # urllib3's, below the client
            if attempt == 3:
                raise Lost(f"Kubernetes does not answer: {type(e).__name__}") from None
        time.sleep(ASK)
    return None


def _delete(client: Any, batch: Any, core: Any, namespace: str, name: str) -> None:
    """Delete a Job and wait until its pod is gone: foreground propagation removes the Job after its pod."""
    options = client.V1DeleteOptions(propagation_policy="Foreground")
    deadline = time.monotonic() + GRACE + 30
    with contextlib.suppress(Exception):
        batch.delete_namespaced_job(name, namespace, body=options)
        while time.monotonic() < deadline and batch.read_namespaced_job(name, namespace):
            time.sleep(LOOK)


def connected(settings: Kubernetes) -> Any:
    """Return the client module and its batch and core APIs. Raises PolmError."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise PolmError("kubernetes is missing; `pip install 'polm[kubernetes]'`") from None
    try:
        if settings.context is None:
            config.load_config()
        else:
            config.load_kube_config(context=settings.context)
    except config.ConfigException as e:
        raise PolmError(f"Kubernetes: {e}; see KUBECONFIG, and `context:` of the runner") from None
    return client, client.BatchV1Api(), client.CoreV1Api()
