"""The model registry: one registered model per recipe, moved only here.

Aliases: `candidate` is the last version that passed the gates, `champion` is what is served, `previous` is what it
replaced. Commands of one working copy wait for each other; among several of them, only one wins
(`flows.registry.aliases`), and only when the champion is still the one that the gates looked at.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from flows import workspace
from flows.registry import claim, evidence, gates, policy, registration, verdict
from flows.registry.aliases import Aliases
from flows.registry.evidence import Evidence, Scores
from flows.registry.policy import Policy
from flows.registry.registration import MEDIA
from flows.registry.verdict import Verdict
from flows.registry.version import INDEX
from flows.tracking import client
from flows.tracking.git import git_state
from tasks.stage import artifact, locks
from tasks.stage.errors import GateError

log = logging.getLogger("polm")


def promote(model: str) -> None:
    """Register `artifacts/models/<model>` of the active recipe and make it the champion, if it passes every gate.

    Args:
        model: name of the model, e.g. `dpo`.

    Raises:
        GateError: a gate failed (all that failed are named), or somebody else moved the champion meanwhile.
        ArtifactError: an artifact that the decision rests on is missing or corrupted.
        ConfigError: `mlflow/gates.yaml` is wrong, or names no metric for a model without a claim.
    """
    recipe = workspace.active_recipe()
    data = evidence.asked_about(model)
    rules = policy.load_policy(recipe, data=data)
    console = Console()
    with _exclusive(), workspace.run_lock(), tempfile.TemporaryDirectory() as temp:
        api = client.client()
        name = client.experiment(recipe)
        aliases = Aliases(api, name)
        state = aliases.state()
        before = state.aliases
        proof = evidence.collect(model, rules.form, _champion_scores(api, name, before, data, Path(temp)))
        proof = replace(proof, rewarded=policy.by_rewards(model, claim.graph_of(recipe)))
        if _is_champion(api, name, before, proof, rules):
            console.print(f"{name} v{before['champion']} already is this model ({model}, {rules.form}): nothing to do")
            return
        rules = _decided(rules, recipe, model, data, console)
        verdicts = gates.judge(proof, rules)
        console.print(verdict.table(model, verdicts))
        _refuse(model, verdicts)
        version = registration.register(api, recipe, proof, rules, verdicts, data)
        if aliases.read().get("champion") != before.get("champion"):
            raise GateError(
                f"{name}: somebody else moved the champion meanwhile; v{version} stays unpromoted, try again"
            )
        moved = {"candidate": version, "champion": version}
        moved |= {"previous": before["champion"]} if "champion" in before else {}
        what = f"made v{version} ({model}, {rules.form}) the champion"
        remedy = f"v{version} stays unpromoted; promote again to hold {model} against the new champion"
        aliases.move(state, moved, what, remedy)
    console.print(f"[bold]{name} v{version}[/] is the champion: {model}, {rules.form}")


def _decided(rules: Policy, recipe: str, model: str, data: str | None, console: Console) -> Policy:
    """Name the metric that must rise where the policy does not, and say what holds that nobody wrote."""
    if policy.is_default(recipe, data=data):
        name = policy.section_name(recipe, data)
        console.print(
            f"gates by default: {policy.POLICY} has no section '{name}'", markup=False, highlight=False, soft_wrap=True
        )
    if rules.quality.metric is not None:
        return rules
    found = claim.of(model, claim.graph_of(recipe))
    if found is not None:
        console.print(f"{found.metric}: {found.why}", markup=False, highlight=False, soft_wrap=True)
    return policy.with_metric(rules, found.metric if found is not None else None)


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
    return evidence.read_scores(folder, label, version.tags["digest"], version.tags.get(INDEX))


def _is_champion(api: Any, name: str, aliases: dict[str, str], proof: Evidence, rules: Policy) -> bool:
    """Tell whether this export of this model, with this index if it reads from one, is the champion already."""
    if "champion" not in aliases:
        return False
    tags = api.get_model_version(name, aliases["champion"]).tags
    index = proof.reading.digest if proof.reading is not None else None
    found = (tags["digest"], tags["export"], tags["form"], tags.get(INDEX))
    return found == (proof.digest, proof.export.digest, rules.form, index)


def _refuse(model: str, verdicts: list[Verdict]) -> None:
    """Raise GateError naming every gate that failed."""
    failed = [v for v in verdicts if not v.passed]
    if failed:
        lines = "\n".join(f"  {v.gate}: required {v.required}; found {v.found}" for v in failed)
        raise GateError(f"{model} is not promoted: {len(failed)} of {len(verdicts)} gates failed\n{lines}")
