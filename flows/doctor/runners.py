"""The runners' file against what it names: would a stage get there, and find there what it needs?

What is asked here is real: each engine that has a rule is given a job of a second, which runs the runner's `python` on
a node and writes into its folders. A cluster that is busy is not waited for.
"""

import os
import re
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.doctor import node_probe
from flows.doctor.machine import Finding
from flows.graph import Graph
from flows.runners import code, settings
from flows.runners.settings import Kubernetes, Ray, Runners, Slurm
from tasks.stage.errors import PolmError

GIT = 20.0
"""Seconds that git may take to reach the shared repository."""


def examine(path: Path) -> Iterator[Finding]:
    """Check a runners' file, what all runners share, and each runner."""
    try:
        runners = settings.read(path)
    except PolmError as e:
        yield _failure("runners", e)
        return
    yield from _rules(path, runners)
    yield _repository(runners.code)
    try:
        yield Finding("ok", "runners' remote", f"DVC remote '{code.default_remote()}' is one that nodes find")
    except PolmError as e:
        yield _failure("runners' remote", e)
    for name, runner in runners.runners.items():
        engine: dict[type, Callable[[str, Any], Iterator[Finding]]] = {
            Slurm: _slurm, Ray: _ray, Kubernetes: _kubernetes
        }  # fmt: skip
        failed = False
        try:
            for finding in engine[type(runner)](name, runner):
                failed |= finding.level == "fail"
                yield finding
            if not failed:
                yield from node_probe.on_node(name, runners, runner)
        except PolmError as e:
            yield _failure(f"runner {name}", e)


def _rules(path: Path, runners: Runners) -> Iterator[Finding]:
    """Check that the file places stages of the recipe."""
    try:
        stages = list(Graph().stages.values())
    except PolmError:
        return  # the check of DVC's files says why
    for notice in settings.unused(path, runners, stages):
        yield Finding("warn", "runners", notice, "correct the rule, or leave it out")
    counts: dict[str, int] = {}
    for stage in stages:
        counts[runners.of(stage)] = counts.get(runners.of(stage), 0) + 1
    shown = ", ".join(
        f"{count} stages {'here' if name == settings.LOCAL else f'on {name}'}" for name, count in counts.items()
    )
    yield Finding("ok", "runners", f"{path}: {shown}")


def _repository(repository: str) -> Finding:
    """Check that the shared repository takes a push from here, without pushing."""
    check, reference = "runners' code", f"refs/polm/doctor-{uuid.uuid4().hex[:8]}"
    remedy = "`code:` names a repository that this machine may push to; `git init --bare` makes one"
    if "://" not in repository and repository.startswith("/") and Path(repository).is_dir():
        objects = Path(repository, "objects")
        if objects.is_dir() and not os.access(objects, os.W_OK):  # a dry run does not write
            return Finding("fail", check, f"{repository} cannot be written", remedy)
    try:
        done = subprocess.run(
            ["git", "push", "--dry-run", "--quiet", repository, f"HEAD:{reference}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=GIT,
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return Finding("fail", check, f"{repository} does not answer in {GIT:g} s", remedy)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        return Finding("fail", check, f"{repository}: {said}", remedy)
    return Finding("ok", check, f"{repository} takes a push")


def _slurm(name: str, runner: Slurm) -> Iterator[Finding]:
    """Check the controller, its version, the partition, and the folder for output."""
    from flows.runners.slurm_jobs import call

    check = f"runner {name}"
    version = call(["scontrol", "--version"]).strip()
    partitions = call(["sinfo", "--noheader", "--format=%R %a %D %G"]).splitlines()
    yield Finding("ok", check, f"{version} answers")
    wanted = runner.options.get("partition")
    fitting = [line.split() for line in partitions if wanted is None or line.split()[0] == wanted]
    if not fitting:
        names = ", ".join(sorted({line.split()[0] for line in partitions}))
        yield Finding("fail", check, f"no partition '{wanted}'", f"`options.partition:` is one of {names}")
    elif all(line[1] != "up" for line in fitting):
        yield Finding("warn", check, f"partition {fitting[0][0]} is {fitting[0][1]}", "jobs wait there; ask its owner")
    asks = runner.gpus and not runner.options.keys() & {"gpus", "gres"}
    if fitting and asks and not any("gpu" in line[3] for line in fitting):
        remedy = "`gpus: false` of the runner, where its nodes have none"
        yield Finding("warn", check, "Slurm knows of no GPUs there; stages with `meta: {gpus: …}` are refused", remedy)
    yield _folder(check, "output", runner.output)


def _ray(name: str, runner: Ray) -> Iterator[Finding]:
    """Check that the cluster answers this driver, and that a node has the resources of a stage."""
    from flows.runners.ray_jobs import missing
    from tasks.stage.ray_cluster import connected

    ray = connected(runner.address)
    nodes = [found for found in ray.nodes() if found["Alive"]]
    yield Finding("ok", f"runner {name}", f"Ray {ray.__version__}, {len(nodes)} nodes")
    if said := missing(nodes, {"CPU": runner.cpus} | runner.resources):
        yield Finding("fail", f"runner {name}", said, "see `cpus:` and `resources:` of the runner")
    if runner.gpus and not any(found["Resources"].get("GPU") for found in nodes):
        remedy = "`gpus: false` of the runner, where its nodes have none"
        yield Finding("warn", f"runner {name}", "no node has a GPU; stages with `meta: {gpus: …}` wait for one", remedy)


def _kubernetes(name: str, runner: Kubernetes) -> Iterator[Finding]:
    """Check that the API answers, and that the claims are there."""
    from flows.runners.kubernetes_jobs import connected

    client, _, core = connected(runner)
    try:
        version = client.VersionApi().get_code().git_version
        core.list_namespaced_pod(runner.namespace, limit=1)
    except client.ApiException as e:
        remedy = "see `namespace:` and `context:` of the runner, and the rights of the account"
        yield Finding("fail", f"runner {name}", f"Kubernetes: {e.status} {e.reason}", remedy)
        return
    except Exception as e:  # urllib3's, below the client
        yield Finding("fail", f"runner {name}", f"Kubernetes does not answer: {type(e).__name__}", "see KUBECONFIG")
        return
    yield Finding("ok", f"runner {name}", f"Kubernetes {version}, namespace {runner.namespace}")
    for claim in runner.claims:
        try:
            core.read_namespaced_persistent_volume_claim(claim, runner.namespace)
        except client.ApiException as e:
            yield Finding(
                "fail", f"runner {name}", f"claim {claim}: {e.status} {e.reason}", "see `claims:` of the runner"
            )


def _folder(check: str, key: str, folder: str) -> Finding:
    """Check that a folder which this machine shares can be written here."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Finding("ok", f"{check} {key}", folder)
    except OSError as e:
        return Finding("fail", f"{check} {key}", f"{folder}: {e.strerror}", f"see `{key}:`: both sides write there")


def _failure(check: str, error: PolmError) -> Finding:
    found, _, remedy = re.sub(r"\s+", " ", str(error)).partition("; ")
    return Finding("fail", check, found, remedy)
