"""The model registry: one registered model per recipe, moved only here.

Aliases: `candidate` is the last version that passed the gates, `champion` is what is served, `previous` is what it
replaced. Commands of one working copy wait for each other; among several of them, only one wins
(`flows.registry.aliases`), and only when the champion is still the one that the gates looked at.
"""

import contextlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from rich.console import Console

from flows import workspace
from flows.registry import evidence, gates, trial, verdict
from flows.registry.aliases import Aliases
from flows.registry.evidence import Evidence, Scores
from flows.registry.gates import Policy
from flows.registry.verdict import Verdict
from flows.tracking import client
from flows.tracking.git import git_state
from tasks.export.multimodal_session import is_hearing, is_seeing
from tasks.stage import artifact, locks
from tasks.stage.errors import GateError

log = logging.getLogger("polm")
SERVED = Path("mlflow/chat_model.py")
"""Code of the served model: MLflow keeps the file, never a pickle."""
SEEING = Path("mlflow/seeing_model.py")
"""The same for a model that sees or hears, for which MLflow's chat format has no pictures and no sounds."""
MEDIA = "media"
"""Tag of a version that sees or hears: the data set that it was asked about."""
PINNED = ("mlflow", "numpy", "onnxruntime", "onnxruntime-genai")
"""Packages of the served model, pinned to the versions that it was promoted with."""
EXAMPLE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello!"}],
    "max_tokens": 8,
    "temperature": 0.0,
    "stream": False,
}
"""Request that the model must answer before it is registered; it stays with the version."""


def promote(model: str) -> None:
    """Register `artifacts/models/<model>` of the active recipe and make it the champion, if it passes every gate.

    Args:
        model: name of the model, e.g. `dpo`.

    Raises:
        GateError: a gate failed (all that failed are named), or somebody else moved the champion meanwhile.
        ArtifactError: an artifact that the decision rests on is missing or corrupted.
        ConfigError: `mlflow/gates.yaml` is wrong.
    """
    recipe = workspace.active_recipe()
    data = evidence.asked_about(model)
    policy = gates.load_policy(recipe, data=data)
    console = Console()
    with _exclusive(), workspace.run_lock(), tempfile.TemporaryDirectory() as temp:
        api = client.client()
        name = client.experiment(recipe)
        aliases = Aliases(api, name)
        state = aliases.state()
        before = state.aliases
        proof = evidence.collect(model, policy.form, _champion_scores(api, name, before, data, Path(temp)))
        if _is_champion(api, name, before, proof, policy):
            console.print(f"{name} v{before['champion']} already is this model ({model}, {policy.form}): nothing to do")
            return
        verdicts = gates.judge(proof, policy)
        console.print(verdict.table(model, verdicts))
        _refuse(model, verdicts)
        version = _register(api, recipe, proof, policy, verdicts, data)
        if aliases.read().get("champion") != before.get("champion"):
            raise GateError(
                f"{name}: somebody else moved the champion meanwhile; v{version} stays unpromoted, try again"
            )
        moved = {"candidate": version, "champion": version}
        moved |= {"previous": before["champion"]} if "champion" in before else {}
        what = f"made v{version} ({model}, {policy.form}) the champion"
        remedy = f"v{version} stays unpromoted; promote again to hold {model} against the new champion"
        aliases.move(state, moved, what, remedy)
    console.print(f"[bold]{name} v{version}[/] is the champion: {model}, {policy.form}")


def rollback() -> None:
    """Make the active recipe's previous champion the champion again, and the other way round.

    Raises:
        GateError: there is no previous champion.
    """
    start = time.monotonic()
    recipe = workspace.active_recipe()
    with _exclusive():
        api = client.client()
        name = client.experiment(recipe)
        experiment = client.experiment_id(api, recipe)  # what can be refused is refused before an alias moves
        aliases = Aliases(api, name)
        state = aliases.state()
        before = state.aliases
        if "champion" not in before:
            raise GateError(f"{name}: there is no champion yet; `polm promote MODEL` makes one")
        if before.get("previous", before["champion"]) == before["champion"]:
            raise GateError(f"{name}: there is no champion before v{before['champion']} to go back to")
        moved = {"champion": before["previous"], "previous": before["champion"]}
        what = f"rolled back from v{before['champion']} to v{before['previous']}"
        aliases.move(state, moved, what, "nothing was rolled back here; look at `polm ui`, then decide again")
        tags = {"kind": "rollback", "from": before["champion"], "to": before["previous"], **git_state()}
        run = api.create_run(experiment, run_name="rollback", tags=tags)
        api.set_terminated(run.info.run_id)
    Console().print(
        f"[bold]{name} v{before['previous']}[/] is the champion again; v{before['champion']} is the previous "
        f"({time.monotonic() - start:.1f} s)"
    )


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """Let one promotion or rollback at a time run in this working copy."""
    path = artifact.STATE / "locks" / "registry.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as f:
        if not locks.acquire(f):
            log.warning("waiting for another promotion to end …")
            locks.acquire(f, wait=True)
        yield


def _champion_scores(api: Any, name: str, aliases: dict[str, str], data: str | None, temp: Path) -> Scores | None:
    """Read how the champion answered, from the evidence stored with its version.

    None where there is no champion, or one that is asked about other things than the candidate, such as words alone:
    a candidate is then compared with its own parent.
    """
    if "champion" not in aliases:
        return None
    version = api.get_model_version(name, aliases["champion"])
    if not version.run_id or not {"model", "digest", "export", "form"} <= version.tags.keys():
        raise GateError(
            f"{name} v{version.version} is the champion and was not registered by `polm promote`: there is nothing to "
            f"compare with; remove its alias `champion` in MLflow (`polm ui`), and promote again"
        )
    if version.tags.get(MEDIA, "") != (data or ""):
        return None
    folder = Path(api.download_artifacts(version.run_id, "evidence/evaluation", str(temp)))
    label = f"champion v{version.version} ({version.tags['model']})"
    return evidence.read_scores(folder, label, version.tags["digest"])


def _is_champion(api: Any, name: str, aliases: dict[str, str], proof: Evidence, policy: Policy) -> bool:
    """Tell whether this export of this model is the champion already."""
    if "champion" not in aliases:
        return False
    tags = api.get_model_version(name, aliases["champion"]).tags
    return (tags["digest"], tags["export"], tags["form"]) == (proof.digest, proof.export.digest, policy.form)


def _refuse(model: str, verdicts: list[Verdict]) -> None:
    """Raise GateError naming every gate that failed."""
    failed = [v for v in verdicts if not v.passed]
    if failed:
        lines = "\n".join(f"  {v.gate}: required {v.required}; found {v.found}" for v in failed)
        raise GateError(f"{model} is not promoted: {len(failed)} of {len(verdicts)} gates failed\n{lines}")


def _register(api: Any, recipe: str, proof: Evidence, policy: Policy, verdicts: list[Verdict], data: str | None) -> str:
    """Log the served model with its evidence and register it; returns the new version. No alias moves."""
    import mlflow

    logging.getLogger("mlflow.pyfunc").setLevel(logging.ERROR)  # warns of defaults that EXAMPLE does not rely on
    name = client.experiment(recipe)
    tags = {
        "model": proof.model,
        "recipe": recipe,
        "digest": proof.digest,
        "export": proof.export.digest,
        "form": policy.form,
        **({MEDIA: data} if data is not None else {}),
        **proof.git,
        "gates": json.dumps({f"{v.gate}: {v.required}": v.found for v in verdicts}, ensure_ascii=False),
    }
    experiment = client.experiment_id(api, recipe)
    export = artifact.ONNX / proof.model / policy.form
    perceives = is_seeing(export) or is_hearing(export)
    if perceives:
        trial.try_out(export)
    with mlflow.start_run(
        experiment_id=experiment, run_name=f"promote {proof.model}", tags={"kind": "promotion", **tags}
    ) as run:
        with tempfile.TemporaryDirectory() as temp:
            _gather(Path(temp), proof, policy, verdicts)
            mlflow.log_artifacts(temp, "evidence")
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(SEEING if perceives else SERVED),
            artifacts={"onnx": str(export)},
            input_example=None if perceives else EXAMPLE,
            pip_requirements=[f"{package}=={installed(package)}" for package in PINNED],
        )
    _create(api, name, f"What recipe {recipe} serves: the alias `champion`.")
    quality = next(v for v in verdicts if v.gate == "quality")
    version = api.create_model_version(
        name,
        source=logged.model_uri,
        run_id=run.info.run_id,
        tags=tags,
        description=f"{proof.model}, {policy.form}. {quality.required}: {quality.found}",
        model_id=logged.model_id,
    )
    return str(version.version)


def _create(api: Any, name: str, description: str) -> None:
    """Create the registered model unless it is there; somebody else may do so at the same time."""
    from mlflow.exceptions import MlflowException

    if not api.search_registered_models(f"name = '{name}'"):
        try:
            api.create_registered_model(name, description=description)
        except MlflowException as e:
            if e.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _gather(folder: Path, proof: Evidence, policy: Policy, verdicts: list[Verdict]) -> None:
    """Lay out the evidence that stays with the version."""
    shutil.copytree(artifact.METRICS / proof.model, folder / "evaluation")
    artifact.write_json(folder / "parity.json", proof.parity)
    for path, manifest in proof.chain.items():
        (folder / "manifests").mkdir(exist_ok=True)
        artifact.write_json(folder / "manifests" / f"{path.replace('/', '-')}.json", manifest.model_dump())
    decision = {
        "model": proof.model,
        "digest": proof.digest,
        "against": proof.baseline and {"label": proof.baseline.label, "digest": proof.baseline.digest},
        "git": proof.git,
        "policy": policy.model_dump(),
        "gates": [vars(v) for v in verdicts],
    }
    artifact.write_json(folder / "gates.json", decision)
    page = evidence.report_page(proof.model)
    if page is not None:
        shutil.copyfile(page, folder / "report.html")
