"""`polm lineage`: from an answer to the version that gave it, its stages, and the rows of data it was made from.

Everything is read from what the registry keeps with the version (`evidence/manifests`), so it can still be told when
the workspace has moved on. Sources and licences come from the report that was logged with the data stage's MLflow run.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import workspace
from flows.registry.version import INDEX
from flows.tracking import client
from tasks.stage import artifact
from tasks.stage.errors import GateError

DATA = "data"
"""Stage that makes data artifacts, those of pictures too."""
CHUNKS = "rag_chunks"
"""Stage that cuts documents into passages."""
REPORT = "report.json"
"""Its report."""
ANSWER = ("request_id", "model_name", "model_version")
"""Tags of a trace that the server wrote."""


@dataclass(frozen=True)
class Step:
    """One artifact of the chain."""

    name: str
    """Folder with `-` for `/`, as the evidence keeps it, e.g. `artifacts-models-sft`."""
    manifest: artifact.Manifest
    run: str | None
    """MLflow run of the stage that made it; None when the store has none."""
    dataset: str | None
    """Set of the data artifact that the model was trained on, if that run names one."""


@dataclass(frozen=True)
class Lineage:
    """Where an answer comes from."""

    answer: dict[str, Any] | None
    """Trace id, request id, question, text, and the `passages` that were shown with the numbers of those `cited`; None
    when a version was asked for."""
    name: str
    version: str
    tags: dict[str, str]
    run: str
    """MLflow run of the promotion."""
    steps: list[Step]
    """Artifacts from the export down to the data, and of a reader those of its index."""
    reports: dict[str, dict[str, Any] | None]
    """Artifact of data or passages, as its step is named, to its stage's report; None when neither store nor workspace
    has it."""

    @property
    def data(self) -> dict[str, Any] | None:
        """Report of the data that the model itself learnt from."""
        return next((self.reports[step.name] for step in self.steps if step.manifest.stage == DATA), None)


def find(what: str) -> Lineage:
    """Look an answer or a version up.

    Args:
        what: id of a trace (`tr-…`) or of an answer (`chatcmpl-…`), a version (`3`, `v3`, `polm-tiny/3`), or an alias.

    Raises:
        GateError: nothing of that name.
    """
    what = what.encode(errors="replace").decode()  # a byte that is no UTF-8 has no place in a database's query
    name = client.experiment(workspace.active_recipe())
    api = client.client(writes=False)
    answer = _answer(api, name, what) if what.startswith(("tr-", "chatcmpl-")) else None
    if answer is not None:
        name, number = answer["model_name"], answer["model_version"]
    else:
        number = _number(api, name, what)
    from mlflow.exceptions import MlflowException

    try:
        version = api.get_model_version(name, number)
    except MlflowException as e:
        raise GateError(f"{name}: there is no version {number}; `polm ui` shows those there are") from e
    missing = [tag for tag in ("model", "form", "export", "commit", "dirty") if tag not in version.tags]
    if missing or not version.run_id:
        what = f"tag '{missing[0]}'" if missing else "MLflow run"
        raise GateError(f"{name} v{number} has no {what}; only what `polm promote` registered has a lineage")
    steps = list(_steps(api, name, version))
    reports = {step.name: _report(api, step) for step in steps if step.manifest.stage in (DATA, CHUNKS)}
    return Lineage(answer, name, str(version.version), dict(version.tags), version.run_id, steps, reports)


def _answer(api: Any, name: str, what: str) -> dict[str, Any]:
    """Read what a trace says, by its own id or by the answer's."""
    from mlflow.exceptions import MlflowException

    try:
        if what.startswith("tr-"):
            trace = api.get_trace(what)
        else:
            experiment = api.get_experiment_by_name(name)
            wanted = "tags.request_id = '{}'".format(re.sub(r"[^\w-]", "", what))
            traces = api.search_traces([experiment.experiment_id], wanted, max_results=1) if experiment else []
            trace = traces[0] if traces else None
    except MlflowException:
        trace = None
    spans = trace.data.spans if trace is not None else []
    if trace is None or not {*ANSWER}.issubset(trace.info.tags) or not spans:
        raise GateError(
            f"{what}: no such answer among the traces of {name}; they are written some seconds after it, and `polm ui` "
            f"shows them"
        )
    span = next(span for span in spans if span.parent_id is None)
    search = next((span for span in spans if span.parent_id is not None), None)
    return {
        **{key: trace.info.tags[key] for key in ANSWER},
        "trace": trace.info.trace_id,
        "asked": span.inputs["messages"][-1]["content"],
        "text": span.outputs["content"],
        "passages": [document["metadata"] for document in search.outputs] if search is not None else [],
        "cited": search.attributes["cited"] if search is not None else [],
    }


def _number(api: Any, name: str, what: str) -> str:
    """Read which version a person means."""
    match = re.fullmatch(rf"(?:{re.escape(name)}[/ ])?v?(\d+)", what)
    if match:
        return match[1]
    models = api.search_registered_models(f"name = '{name}'")
    aliases = models[0].aliases if models else {}
    if what not in aliases:
        names = ", ".join(sorted(aliases)) or "none yet"
        raise GateError(f"{name}: '{what}' is no version, alias (there are: {names}), trace or answer")
    return str(aliases[what])


def _steps(api: Any, name: str, version: Any) -> Iterator[Step]:
    """Yield the artifacts that the version stands on, each before what it was made from."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as temp:
        try:
            folder = Path(api.download_artifacts(version.run_id, "evidence/manifests", temp))
        except (MlflowException, OSError) as e:
            what = f"{name} v{version.version}: its MLflow run {version.run_id} has no evidence/manifests"
            raise GateError(f"{what} ({e}); promote its model again") from e
        manifests = {
            path.stem: artifact.Manifest.model_validate_json(path.read_text()) for path in folder.glob("*.json")
        }
    names = {manifest.digest: stem for stem, manifest in manifests.items()}
    made = artifact.chain(version.tags["export"], manifests.values())
    if INDEX in version.tags:
        made += [m for m in artifact.chain(version.tags[INDEX], manifests.values()) if m not in made]
    for manifest in made:
        run = _run(api, name, manifest.digest)
        dataset = run.data.params.get("dataset") if run else None
        yield Step(names[manifest.digest], manifest, run.info.run_id if run else None, dataset)


def _run(api: Any, name: str, digest: str) -> Any:
    experiment = api.get_experiment_by_name(name)
    if experiment is None:
        return None
    runs = api.search_runs([experiment.experiment_id], f"tags.digest = '{digest}' and tags.stage != ''", max_results=1)
    return runs[0] if runs else None


def _report(api: Any, step: Step) -> dict[str, Any] | None:
    """Find a stage's own report, whose bytes are those of the manifest."""
    if REPORT not in step.manifest.files:
        return None
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as temp:
        folder = step.name.removeprefix(f"{artifact.ROOT}-")
        kind, _, name = folder.partition("-")
        places = [artifact.ROOT / folder / REPORT, artifact.ROOT / kind / name / REPORT]
        if step.run is not None:
            with contextlib.suppress(MlflowException, OSError):
                places.append(Path(api.download_artifacts(step.run, REPORT, temp)))
        for path in places:
            if path.exists() and artifact.sha256(path) == step.manifest.files[REPORT]:
                report: dict[str, Any] = artifact.read_json(path)
                return report
    return None
