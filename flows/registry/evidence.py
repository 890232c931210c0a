"""What a promotion is decided on: read from verified artifacts, never from a table somebody typed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.graph import Graph
from flows.registry import exports, grounding
from flows.registry.grounding import Reading
from flows.tracking.git import git_state
from tasks.ingestion import frozen_tasks
from tasks.stage import artifact
from tasks.stage.artifact import METRICS, MODELS, ONNX, REPORTS
from tasks.stage.errors import ArtifactError

LEADERBOARD = artifact.LAST_REPORT / "leaderboard.json"


@dataclass(frozen=True)
class Scores:
    """How one model answered each evaluation row."""

    label: str
    """Name for people: `sft`, `champion v3 (sft)`, `parent base`."""
    digest: str
    """Manifest digest of the model that answered."""
    rows: dict[str, dict[str, float]]
    """`task.metric` to row id to score."""
    higher_is_better: dict[str, bool]
    """`task.metric` to its direction."""
    tasks: dict[str, str]
    """Task to the SHA-256 of the task file it was asked with."""
    index: str | None = None
    """Manifest digest of the index that it was asked with; None for a model that answers without one."""


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
    """`commit` and `dirty`, and `git_error` where git could not say: see `flows.tracking.git`."""
    parent: Scores | None = None
    """How the model that the candidate was made from answered; None where it was not evaluated."""
    rewarded: bool = False
    """Whether the candidate, or one of its line, learnt from preferences or rewards."""
    controls: dict[str, Any] = field(default_factory=dict)
    """Task to the scores of the served form under other pictures or sounds, as its results have them."""
    reading: Reading | None = None
    """With which index a reader was evaluated, and how; None for a model that answers without one."""


def collect(model: str, form: str, champion: Scores | None) -> Evidence:
    """Read and verify all that the promotion of `artifacts/models/<model>` rests on.

    Args:
        model: name of the candidate.
        form: form of its export that would be served.
        champion: scores of the champion; None when there is none.

    Raises:
        GateError: no such exported model.
        ArtifactError: an artifact is missing or corrupted.
    """
    exports.require(model)
    digest = artifact.verify(MODELS / model).digest
    chain = _ancestors(MODELS / model)
    form_scores = METRICS / f"{model}_{form}"
    evaluations = [METRICS / model, *([form_scores] if (form_scores / artifact.MANIFEST).exists() else [])]
    for folder in (*evaluations, ONNX / model):
        chain[str(folder)] = artifact.verify(folder)
    evaluation = chain[str(METRICS / model)]
    served = form_scores if form_scores in evaluations else None
    reading = grounding.reading(METRICS / model, served)
    index = reading.folder if reading is not None else None
    if index is not None:
        chain |= _ancestors(index)
    parent = _parent_scores(chain[str(MODELS / model)])
    return Evidence(
        model=model,
        digest=digest,
        candidate=read_scores(METRICS / model, model, digest, reading.digest if reading else None),
        baseline=champion or parent,
        parent=parent,
        evaluated=evaluation.inputs["model"],
        export=chain[str(ONNX / model)],
        parity=artifact.read_json(ONNX / model / "parity.json"),
        served=_form_scores(served, form, chain) if served is not None else None,
        chain=chain,
        data=next((Path(name) for name, m in chain.items() if m.digest == evaluation.inputs["data"]), None),
        stale=_stale({MODELS / model, ONNX / model, *evaluations, *([index] if index is not None else [])}),
        git=git_state(),
        controls=_controls(served) if served is not None else {},
        reading=reading,
    )


def asked_about(model: str) -> str | None:
    """Name the data set of pictures, sounds or passages that a model was evaluated on; None without one."""
    if not (METRICS / model / artifact.MANIFEST).exists():
        return None
    digest = artifact.read_manifest(METRICS / model).inputs.get("data")
    sets = artifact.manifests(artifact.ROOT / "media")
    return next((folder.name for folder, manifest in sets.items() if manifest.digest == digest), None)


def read_scores(folder: Path, label: str, digest: str, index: str | None = None) -> Scores:
    """Read `results.json`, `samples/` and `tasks/`, of an evaluation artifact or of a version's stored evidence.

    Args:
        folder: where they lie.
        label: name for people.
        digest: manifest digest of the model.
        index: that of the index that it was asked with, if with one.
    """
    rows: dict[str, dict[str, float]] = {}
    higher: dict[str, bool] = {}
    for task, result in artifact.read_json(folder / "results.json")["tasks"].items():
        samples = artifact.read_jsonl(folder / "samples" / f"{task}.jsonl")
        for metric, direction in result["higher_is_better"].items():
            rows[f"{task}.{metric}"] = {row["id"]: row["scores"][metric] for row in samples}
            higher[f"{task}.{metric}"] = direction
    tasks = {path.stem: artifact.sha256(path) for path in sorted(folder.glob("tasks/*.yaml"))}
    return Scores(label=label, digest=digest, rows=rows, higher_is_better=higher, tasks=tasks, index=index)


def _controls(folder: Path) -> dict[str, Any]:
    tasks = artifact.read_json(folder / "results.json")["tasks"]
    return {task: result["controls"] for task, result in tasks.items() if "controls" in result}


def leaked_questions(data: Path, trained: Sequence[Path] = ()) -> tuple[list[str], int, int]:
    """Look for evaluation questions among everything that trains, whatever the data stage says it removed.

    A question about pictures or a sound is known by them: others are asked in the same words. One of a benchmark is
    known by its prompt, and by the longest text in that: `Question: … Answer:` around it would hide it.

    Args:
        data: data artifact with the questions.
        trained: data artifacts that were trained on beside it.

    Returns:
        The questions that train too, how many there are to find, and how many training rows were read.
    """
    names: dict[str, str] = {}  # text to the question that it tells
    for path in data.glob("eval/*.jsonl"):
        for row in artifact.read_jsonl(path):
            name = _shown(row) or _same(row["question"])
            names[name] = name
    for path in sorted(data.glob(f"{frozen_tasks.FOLDER}/*/{frozen_tasks.QUESTIONS}")):
        for row in artifact.read_jsonl(path):
            texts = [_same(text) for text in row["texts"]]
            names |= {text: names.get(text, texts[0]) for text in texts}
    training_texts: set[str] = set()
    count = 0
    for path in [path for folder in dict.fromkeys([data, *trained]) for path in sorted(folder.glob("*/train.jsonl"))]:
        for row in artifact.read_jsonl(path):
            count += 1
            training_texts |= {shown} if (shown := _shown(row)) else {_same(text) for text in _texts(row)}
    found = {names[text] for text in names.keys() & training_texts}
    return sorted(found), len(set(names.values())), count


def report_page(model: str) -> Path | None:
    """Find the HTML report of the whole DAG or of the last run, if it shows this evaluation of the model."""
    evaluation = artifact.read_manifest(METRICS / model).digest
    if (REPORTS / artifact.MANIFEST).exists() and artifact.verify(REPORTS).inputs.get(f"metrics/{model}") == evaluation:
        return REPORTS / "index.html"
    page = artifact.LAST_REPORT / "index.html"
    if page.exists() and LEADERBOARD.exists():
        digests = {node["name"]: node["digest"] for node in artifact.read_json(LEADERBOARD)["lineage"]}
        return page if digests.get(f"metrics/{model}") == evaluation else None
    return None


def _ancestors(folder: Path) -> dict[str, artifact.Manifest]:
    """Verify a model and all that it was made from, as far as it is still in the workspace."""
    manifests = artifact.manifests()
    folders = {manifest.digest: path for path, manifest in reversed(manifests.items())}
    digest = manifests[folder].digest
    folders[digest] = folder  # and not an equal one under another name
    line = [folders[manifest.digest] for manifest in artifact.chain(digest, manifests.values())]
    return {str(path): artifact.verify(path) for path in line}


def _form_scores(folder: Path, form: str, chain: dict[str, artifact.Manifest]) -> Scores:
    return read_scores(folder, form, chain[str(folder)].inputs["model"])


def _parent_scores(manifest: artifact.Manifest) -> Scores | None:
    """Read how the model that this one was made from answers, if it was evaluated."""
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


def _shown(row: dict[str, Any]) -> str:
    """Name the pictures or sounds of a row, which are called by the hash of their bytes; nothing where it has none."""
    return " ".join(row.get("images") or row.get("audio") or ())


def _texts(row: dict[str, Any]) -> Iterator[str]:
    if "text" in row:
        yield row["text"]
    for message in [*row.get("messages", []), *row.get("prompt", [])]:
        yield message["content"]


def _same(text: str) -> str:
    """Write a text so that white space and case make no difference."""
    return re.sub(r"\s+", " ", text).strip().casefold()
