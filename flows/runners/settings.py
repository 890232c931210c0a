"""Which stage runs where: the file that `polm run --runners` names, such as `infra/runners.yaml`."""

import fnmatch
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictInt

from flows.graph import Stage
from tasks.stage.config import Strict, load, suggest
from tasks.stage.errors import ConfigError

LOCAL = "local"
"""Name of the runner that is always there: this machine."""
Positive = Annotated[int, Field(ge=1)]
Minutes = Annotated[float, Field(gt=0)]


class Remote(Strict):
    """What every runner on other machines needs."""

    jobs: Positive
    """Stages that may be there at a time; they do not count for `--jobs`."""
    python: str
    """Interpreter there, with the packages of `infra/requirements.lock`."""
    work: str
    """Absolute folder on the node for working copies and DVC's cache."""
    environment: list[str]
    """Names of variables that the stage gets from here, e.g. `HF_TOKEN`. Their values stand in no file."""
    gpus: bool = True
    """Whether its nodes have GPUs, of which a stage gets as many as its `meta.gpus`; false: that is ignored, as on a
    machine without any."""
    queue_minutes: Minutes | None = None
    """Minutes that a stage may wait for its engine before it fails; null: as long as that takes."""


class Slurm(Remote):
    """A Slurm cluster, by `sbatch`."""

    engine: Literal["slurm"]
    output: str
    """Absolute folder that this machine and the nodes share: the jobs' output, from which the log streams."""
    options: dict[str, str | StrictInt | None]
    """Options of `sbatch` without their dashes, e.g. `partition: gpu`; null for one that takes no value."""


class Ray(Remote):
    """A Ray cluster, by `ray.remote`."""

    engine: Literal["ray"]
    address: str
    """Address of the cluster's head, e.g. `10.0.0.1:6379`."""
    cpus: Annotated[float, Field(ge=0)]
    """CPUs of a stage, for Ray's bookkeeping."""
    resources: dict[str, float]
    """Custom resources that a node must have, e.g. `{a100: 1}`."""


class Kubernetes(Strict):
    """A Kubernetes cluster, by a Job for each stage."""

    engine: Literal["kubernetes"]
    jobs: Positive
    """Stages that may be there at a time; they do not count for `--jobs`."""
    python: str
    """Interpreter in the image, with the packages of `infra/requirements.lock`."""
    work: str
    """Absolute folder in the pod for the working copy and DVC's cache."""
    image: str
    """Image with git, Python and the packages; best pinned by digest."""
    namespace: str
    """Namespace of the Job."""
    context: str | None
    """Context of the kubeconfig; null: the current one, or the pod's own account inside a cluster."""
    node_selector: dict[str, str]
    """Labels that the node must have."""
    gpu_resource: str
    """Resource of which a stage gets as many as its `meta.gpus`, e.g. `nvidia.com/gpu`."""
    secrets: list[str]
    """Names of secrets whose keys become environment variables of the stage."""
    claims: dict[str, str]
    """Claims of volumes, each with the folder where it is mounted; the checkpoints' folder lies in one."""
    gpus: bool = True
    """Whether its nodes have GPUs, of which a stage gets as many as its `meta.gpus`; false: that is ignored, as on a
    machine without any."""
    queue_minutes: Minutes | None = None
    """Minutes that a stage may wait for its engine before it fails; null: as long as that takes."""


class Rule(Strict):
    """Which stages a runner gets: those of a name or pattern, those whose `meta:` says so, or what is both."""

    stages: str | None = None
    """Name or pattern: `sft@cot`, `evaluate@*`, or a method, `sft`, for all of its stages; none: every stage."""
    meta: dict[Literal["gpus"], int] | None = None
    """Stages whose `meta.gpus` is at least that; none: whatever it is."""
    runner: str
    """A name under `runners:`, or `local`."""

    def fits(self, stage: Stage) -> bool:
        """Return whether the rule is about this stage."""
        named = self.stages is None or fnmatch.fnmatchcase(stage.name, self.stages)
        named = named or stage.name.split("@")[0] == self.stages
        return named and (self.meta is None or all(stage.meta.gpus >= count for count in self.meta.values()))


AnyRunner = Annotated[Slurm | Ray | Kubernetes, Field(discriminator="engine")]


class Runners(Strict):
    """The whole file."""

    code: str
    """URL, or absolute path, of a git repository that both sides reach; each stage's commit is pushed there."""
    checkpoints: str | None
    """Absolute folder that all nodes share, for checkpoints; null: each node keeps its own, and another starts anew."""
    runners: dict[str, AnyRunner]
    """Runners by name."""
    rules: list[Rule]
    """The first rule that fits a stage places it; a stage that none fits runs locally."""

    def of(self, stage: Stage) -> str:
        """Return the name of the runner that a stage is placed on."""
        return next((rule.runner for rule in self.rules if rule.fits(stage)), LOCAL)


def read(path: Path) -> Runners:
    """Read and check the file.

    Raises:
        ConfigError: an unknown or missing key, a runner that is not there, a name that is taken, a relative folder.
    """
    runners = load(path, Runners)
    if re.match(r"https?://[^/]*@", runners.code):
        raise ConfigError(
            f"{path}: code: holds a name or a password, which would stand in the jobs' scripts; leave it out and give "
            f"git a credential helper on both sides, or a URL of ssh"
        )
    if not re.match(r"/|\w[\w+.-]*://|[\w.@-]+:", runners.code):
        raise ConfigError(
            f"{path}: code is '{runners.code}'; expected a URL or an absolute path: another machine reads it"
        )
    names = [*runners.runners, LOCAL]
    if LOCAL in runners.runners:
        raise ConfigError(f"{path}: runners.{LOCAL}: this name stands for the machine of `polm run`; take another one")
    for number, rule in enumerate(runners.rules):
        if rule.runner not in names:
            raise ConfigError(f"{path}: rules.{number}.runner: no runner '{rule.runner}'{suggest(rule.runner, names)}")
        if rule.stages is None and rule.meta is None:
            raise ConfigError(f"{path}: rules.{number}: says neither `stages` nor `meta`; `stages: '*'` is every stage")
    folders = {"checkpoints": runners.checkpoints or "/"}
    for name, runner in runners.runners.items():
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name):
            raise ConfigError(f"{path}: runners.{name}: a name has small letters, digits and dashes only")
        folders[f"runners.{name}.work"] = runner.work
        if isinstance(runner, Slurm):
            folders[f"runners.{name}.output"] = runner.output
    for key, folder in folders.items():
        if not Path(folder).is_absolute():
            raise ConfigError(f"{path}: {key} is '{folder}'; expected an absolute path: another machine reads it")
        if re.search(r"[%\n\"'\\]", folder):
            raise ConfigError(f"{path}: {key} is '{folder}'; a quote, a backslash or % in it has a meaning to engines")
    for name, runner in runners.runners.items():
        _check_python_and_names(f"{path}: runners.{name}", runner)
    return runners


def _check_python_and_names(key: str, runner: AnyRunner) -> None:
    """Raise ConfigError for a relative interpreter, and for what is no name of a variable."""
    if "/" in runner.python and not Path(runner.python).is_absolute():
        raise ConfigError(f"{key}.python is '{runner.python}'; expected an absolute path: nothing expands it there")
    for number, name in enumerate([] if isinstance(runner, Kubernetes) else runner.environment):
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ConfigError(f"{key}.environment.{number} is no name of a variable; values stand in no file")
        if name in ("ALL", "NONE", "NIL"):
            raise ConfigError(
                f"{key}.environment.{number}: {name} means more than a name to sbatch; name each variable"
            )


def unused(path: Path, runners: Runners, stages: Iterable[Stage]) -> list[str]:
    """Write a warning for all that has no effect: a rule that places no stage of the graph, because nothing fits or an
    earlier rule does, and a variable to pass on that is not set.
    """
    stages = list(stages)
    notices = []
    for number, rule in enumerate(runners.rules):
        fitting = [stage for stage in stages if rule.fits(stage)]
        if not fitting:
            notices.append(f"{path}: rules.{number} ({_shown(rule)}) fits no stage of the recipe")
        elif all(any(earlier.fits(stage) for earlier in runners.rules[:number]) for stage in fitting):
            notices.append(
                f"{path}: rules.{number} ({_shown(rule)}) is without effect: earlier rules fit all its stages"
            )
    for name, runner in runners.runners.items():
        used = any(runners.of(stage) == name for stage in stages)
        names = runner.environment if used and not isinstance(runner, Kubernetes) else []
        notices += [
            f"{path}: runners.{name}.environment: {variable} is not set here, so not passed on"
            for variable in names
            if variable not in os.environ
        ]
    return notices


def _shown(rule: Rule) -> str:
    parts = [f"stages: {rule.stages}"] if rule.stages is not None else []
    return ", ".join([*parts, f"meta: {rule.meta}"] if rule.meta is not None else parts)
