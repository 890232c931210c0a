"""A version of the registered model: the exported form, its evidence, and a reader's index, logged and tagged."""

import json
import logging
import shutil
import tempfile
import warnings
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from flows.registry import evidence, grounding, trial
from flows.registry.evidence import Evidence
from flows.registry.policy import Policy
from flows.registry.verdict import Verdict
from flows.registry.version import INDEX, RAG
from flows.tracking import client
from tasks.export.multimodal_session import is_hearing, is_seeing
from tasks.stage import artifact

SERVED = Path("mlflow/chat_model.py")
"""Code of the served model: MLflow keeps the file, never a pickle."""
SEEING = Path("mlflow/seeing_model.py")
"""The same for a model that sees or hears, for which MLflow's chat format has no pictures and no sounds."""
MEDIA = "media"
"""Tag of a version that sees, hears or reads passages: the data set that it was asked about."""
PINNED = ("mlflow", "numpy", "onnxruntime", "onnxruntime-genai")
"""Packages of the served model, pinned to the versions that it was promoted with."""
EXAMPLE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello!"}],
    "max_tokens": 8,
    "temperature": 0.0,
    "stream": False,
}
"""Request that the model must answer before it is registered; it stays with the version."""


def register(api: Any, recipe: str, proof: Evidence, policy: Policy, verdicts: list[Verdict], data: str | None) -> str:
    """Log the served model with its evidence and register it. No alias moves.

    Args:
        api: MLflow's client.
        recipe: name of the recipe.
        proof: what it was judged on.
        policy: by which it was judged.
        verdicts: of the gates.
        data: data set of pictures, sounds or passages that it was asked about; None for a model of words.

    Returns:
        The new version.

    Raises:
        ModelError: a model that sees or hears does not answer.
    """
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
        **({INDEX: proof.reading.digest} if proof.reading is not None else {}),
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
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=artifact.STATE) as temp:
            warnings.filterwarnings("ignore", "(?is).*type hint", UserWarning)  # of one that refuses every request
            rag = Path(temp, RAG)
            if proof.reading is not None:
                grounding.lay_out(proof.reading, rag)
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(SEEING if perceives else SERVED),
                artifacts={"onnx": str(export), **({RAG: str(rag)} if proof.reading is not None else {})},
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
