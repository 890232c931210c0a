"""Stages as Jobs of Kubernetes: what its API is asked, over real HTTP, of a server in place of a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="pip install 'polm[kubernetes]'")

from flows.runners import kubernetes_jobs, wire
from flows.runners.listening import Lost
from flows.runners.settings import Kubernetes
from tasks.stage.errors import PolmError
from tests.support import kubernetes_api

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SETTINGS = Kubernetes(
    engine="kubernetes",
    jobs=1,
    python="python",
    work="/work",
    image="registry.example/polm@sha256:00",
    namespace="trainings",
    context=None,
    node_selector={"gpu": "a100"},
    gpu_resource="nvidia.com/gpu",
    secrets=["polm-storage"],
    claims={"polm-shared": "/shared"},
)


def configured(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Have the client read this file, as `KUBECONFIG` does when it is set before the client is imported."""
    for module in ("kubernetes.config", "kubernetes.config.kube_config"):
        monkeypatch.setattr(f"{module}.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture
def cluster(tmp_path: Path, no_proxy: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[kubernetes_api.Cluster]:
    with kubernetes_api.serving(tmp_path) as (served, config):
        configured(monkeypatch, config)
        monkeypatch.setattr(kubernetes_jobs, "ASK", 0.2)
        yield served


def lines(script: str, gpus: int = 0) -> Any:
    return kubernetes_jobs.lines(SETTINGS, gpus, "polm-0123456789ab-sft-cot", script)


def said(cluster: kubernetes_api.Cluster, method: str) -> list[tuple[str, Any]]:
    return [(path, body) for verb, path, body in cluster.requests if verb == method]


def test_a_job_asks_for_image_node_gpus_and_secrets_and_never_runs_twice(cluster: kubernetes_api.Cluster) -> None:
    with pytest.raises(Lost, match=r"the log of pod polm-0123456789ab-sft-cot-.* ended"):
        list(lines("echo one; echo two", gpus=2))
    [(path, job)] = said(cluster, "POST")
    assert path == "/apis/batch/v1/namespaces/trainings/jobs"
    assert job["spec"]["backoffLimit"] == 0
    assert job["metadata"]["labels"] == {"polm-owner": "0123456789ab"}
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {"gpu": "a100"}
    [container] = pod["containers"]
    assert container["image"] == SETTINGS.image
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert container["envFrom"] == [{"secretRef": {"name": "polm-storage"}}]
    assert container["volumeMounts"] == [{"name": "claim-0", "mountPath": "/shared"}]
    assert pod["volumes"] == [{"name": "claim-0", "persistentVolumeClaim": {"claimName": "polm-shared"}}]
    assert cluster.jobs == {}


def test_the_pods_log_arrives_line_by_line(cluster: kubernetes_api.Cluster) -> None:
    got = []
    with pytest.raises(Lost):
        for line in lines(r"""echo one; printf '\036polm {"part": "code"}\n'; printf ü; echo"""):
            got += [line] if line is not None else []
    assert got == ["one\n", f'{wire.MARK}{{"part": "code"}}\n', "ü\n"]
    assert wire.heard(got[1]) == {"part": "code"}


def test_closing_deletes_the_job_in_the_foreground_and_its_process(cluster: kubernetes_api.Cluster) -> None:
    running = lines("echo up; exec sleep 600")
    while next(running) != "up\n":
        pass
    running.close()
    [(path, body)] = said(cluster, "DELETE")
    assert path.startswith("/apis/batch/v1/namespaces/trainings/jobs/polm-0123456789ab-sft-cot-")
    assert body["propagationPolicy"] == "Foreground"
    [process] = cluster.processes.values()
    assert process.poll() is not None


def test_a_pod_that_is_gone_or_evicted_is_lost(cluster: kubernetes_api.Cluster) -> None:
    running = lines("echo up; exec sleep 600")
    while next(running) != "up\n":
        pass
    cluster.condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "m",
    }
    with pytest.raises(Lost, match="PreemptionByScheduler: m"):
        list(running)
    cluster.condition = None
    running = lines("echo up; exec sleep 600")
    while next(running) != "up\n":
        pass
    cluster.lost = True
    with pytest.raises(Lost, match="is gone: its node was lost, or somebody deleted it"):
        list(running)
    assert cluster.jobs == {}


def test_an_image_that_cannot_be_pulled_is_not_waited_for(cluster: kubernetes_api.Cluster) -> None:
    cluster.waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    with pytest.raises(Lost, match="Kubernetes: ImagePullBackOff: no such image"):
        list(lines("true"))
    assert cluster.jobs == {}


def test_a_missing_configuration_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(monkeypatch, tmp_path / "none")
    with pytest.raises(PolmError, match="see KUBECONFIG, and `context:` of the runner"):
        next(lines("true"))
