"""What a promotion is decided on: read from verified artifacts, never from a table somebody typed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.graph import Graph
from flows.terminal import leaderboard
from flows.tracking import client
from tasks.stage import artifact
from tasks.stage.config import suggest
from tasks.stage.errors import ArtifactError, GateError

MODELS, METRICS, ONNX, REPORTS = (Path("artifacts", name) for name in ("models", "metrics", "onnx", "reports"))


@dataclass(frozen=True)
class Scores:
    """How one model answered each evaluation row."""

    label: str
    """For people: `sft`, `champion v3 (sft)`, `parent base`."""
    digest: str
    """Manifest digest of the model that answered."""
    rows: dict[str, dict[str, float]]
    """`task.metric` to row id to score."""
    higher_is_better: dict[str, bool]
    """`task.metric` to its direction."""
    tasks: dict[str, str]
    """Task to the SHA-256 of the task file it was asked with."""


@dataclass(frozen=True)
class Evidence:
    """Everything the gates look at."""

    model: str
    """Name of the candidate, e.g. `dpo`."""
    digest: str
    """Manifest digest of the candidate."""
    candidate: Scores
    baseline: Scores | None
    """The champion; without one the candidate's parent; None where there is neither."""
    evaluated: str
    """Manifest digest of the model that the evaluation answered with."""
    export: artifact.Manifest
    """Manifest of the exported model."""
    parity: dict[str, Any]
    """`parity.json` of the export."""
    served: Scores | None
    """How the exported form that would be served answered, with the export's digest; None when it was not asked."""
    chain: dict[str, artifact.Manifest]
    """Folder to manifest: the candidate, what it was made from, its evaluation and its export."""
    data: Path | None
    """The data artifact that the evaluation used; None when it is no longer in the workspace."""
    stale: list[str]
    """Stages of the candidate whose code, params, inputs or outputs are not those in `dvc.lock`."""
    git: dict[str, str]
    """`commit` and `dirty`, and `git_error` where git could not say: see `store.git_state`."""


def collect(model: str, form: str, champion: Scores | None) -> Evidence:
    """Read and verify all that the promotion of `artifacts/models/<model>` rests on.

    Args:
        model: name of the candidate.
        form: of its export, that would be served.
        champion: how the champion answered; None when there is none.

    Raises:
        GateError: no such exported model.
        ArtifactError: an artifact is missing or corrupted.
    """
    exported = [p.parent.name for p in sorted(ONNX.glob(f"*/{artifact.MANIFEST}"))]
    if model not in exported:
        raise GateError(
            f"no exported model '{model}' in {ONNX}{suggest(model, exported)} (made by `polm run`, for the models "
            f"in the matrix of export_onnx in dvc.yaml)"
        )
    digest = artifact.verify(MODELS / model).digest
    chain = dict(_ancestors(MODELS / model))
    form_scores = METRICS / f"{model}_{form}"
    asked = [form_scores] if (form_scores / artifact.MANIFEST).exists() else []
    for folder in (METRICS / model, ONNX / model, *asked):
        chain[str(folder)] = artifact.verify(folder)
    evaluation = chain[str(METRICS / model)]
    return Evidence(
        model=model,
        digest=digest,
        candidate=read_scores(METRICS / model, model, digest),
        baseline=champion or _parent_scores(chain[str(MODELS / model)]),
        evaluated=evaluation.inputs["model"],
        export=chain[str(ONNX / model)],
        parity=artifact.read_json(ONNX / model / "parity.json"),
        served=read_scores(form_scores, form, chain[str(form_scores)].inputs["model"]) if asked else None,
        chain=chain,
        data=next((Path(name) for name, m in chain.items() if m.digest == evaluation.inputs["data"]), None),
        stale=_stale({MODELS / model, METRICS / model, ONNX / model, *asked}),
        git=client.git_state(),
    )


def read_scores(folder: Path, label: str, digest: str) -> Scores:
    """Read `results.json`, `samples/` and `tasks/`, of an evaluation artifact or of a version's stored evidence."""
    rows: dict[str, dict[str, float]] = {}
    higher: dict[str, bool] = {}
    for task, result in artifact.read_json(folder / "results.json")["tasks"].items():
        samples = artifact.read_jsonl(folder / "samples" / f"{task}.jsonl")
        for metric, direction in result["higher_is_better"].items():
            rows[f"{task}.{metric}"] = {row["id"]: row["scores"][metric] for row in samples}
            higher[f"{task}.{metric}"] = direction
    tasks = {path.stem: artifact.sha256(path) for path in sorted(folder.glob("tasks/*.yaml"))}
    return Scores(label=label, digest=digest, rows=rows, higher_is_better=higher, tasks=tasks)


def leaked_questions(data: Path) -> tuple[list[str], int, int]:
    """Look for evaluation questions among everything that trains, whatever the data stage says it removed.

    Returns:
        The questions that train too, how many there are to find, and how many training rows were read.
    """
    asked = {_same(row["question"]) for path in data.glob("eval/*.jsonl") for row in artifact.read_jsonl(path)}
    trained, count = set(), 0
    for path in sorted(data.glob("*/train.jsonl")):
        for row in artifact.read_jsonl(path):
            count += 1
            trained |= {_same(text) for text in _texts(row)}
    return sorted(asked & trained), len(asked), count


def report_page(model: str) -> Path | None:
    """The HTML report of the whole DAG or of the last run, if it shows this evaluation of the model."""
    evaluation = artifact.read_manifest(METRICS / model).digest
    reported = (REPORTS / artifact.MANIFEST).exists()
    if reported and artifact.verify(REPORTS).inputs.get(f"metrics/{model}") == evaluation:
        return REPORTS / "index.html"
    page, board = leaderboard.LOCAL.parent / "index.html", leaderboard.LOCAL
    if page.exists() and board.exists():
        shown = {node["name"]: node["digest"] for node in artifact.read_json(board)["lineage"]}
        return page if shown.get(f"metrics/{model}") == evaluation else None
    return None


def _ancestors(folder: Path) -> Iterator[tuple[str, artifact.Manifest]]:
    """A model and all that it was made from, verified, as far as it is still in the workspace."""
    manifest = artifact.verify(folder)
    yield str(folder), manifest
    for path in [*MODELS.glob(f"*/{artifact.MANIFEST}"), *Path("artifacts").glob(f"*/{artifact.MANIFEST}")]:
        if artifact.read_manifest(path.parent).digest in manifest.inputs.values():
            yield from _ancestors(path.parent)


def _parent_scores(manifest: artifact.Manifest) -> Scores | None:
    """How the model that this one was made from answers, if it was evaluated."""
    for path in sorted(METRICS.glob(f"*/{artifact.MANIFEST}")):
        folder = path.parent
        if artifact.read_manifest(folder).inputs["model"] == manifest.inputs.get("model"):
            evaluation = artifact.verify(folder)
            return read_scores(folder, f"parent {folder.name}", evaluation.inputs["model"])
    return None


def _stale(outs: set[Path]) -> list[str]:
    graph = Graph()
    names = [name for name, stage in graph.stages.items() if stage.out in outs]
    if len(names) != len(outs):
        raise ArtifactError(f"dvc.yaml: no stages write all of {', '.join(str(out) for out in sorted(outs))}")
    return [name for name in graph.closure(names) if not graph.unchanged(name)]


def _texts(row: dict[str, Any]) -> Iterator[str]:
    if "text" in row:
        yield row["text"]
    for message in [*row.get("messages", []), *row.get("prompt", [])]:
        yield message["content"]


def _same(text: str) -> str:
    """White space and case aside."""
    return re.sub(r"\s+", " ", text).strip().casefold()
