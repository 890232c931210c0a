"""A reader with its index, ready for promotion, in the project of `tests/support/promotable.py`."""

import random
import shutil
from pathlib import Path
from typing import Any

from tasks.export import parity
from tasks.retrieval.prompts import PROMPT
from tasks.stage import artifact
from tests.support.promotable import Make, stage
from tests.support.rag import FORM

READERS = {"reader": 0.85, "faithful": 0.95}
"""Reader to its share of right answers; the second is made from the first."""
GATES = """
tiny/grounded:
  form: int8
  served_loss: 0.02
  quality: {metric: facts.exact_match, gain: 0.0}
  grounding: {retrieved: 0.8, abstention_f1: 0.8, followed: 0.05}
  regression: {"*": null}
  bootstrap: {resamples: 500, confidence: 0.95, seed: 0}
  allow_changed_evaluation: false
  allow_dirty: true
"""
INDEX = Path("artifacts/indexes/index")


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.03, "high": value + 0.03}


def rag(retrieved: float = 0.85, f1: float = 0.9, followed: float = 0.02) -> dict[str, Any]:
    """What `evaluate_rag` writes of a task, as far as the gates read it."""
    return {
        "conditions": {"retrieved": {"rows": 200, "exact_match": interval(retrieved)}},
        "abstention": {"f1": interval(f1)},
        "planted": {"followed": interval(followed)},
    }


def evaluated(name: str, make: Make, share: float, scores: dict[str, Any], **inputs: str) -> None:
    """Write the evaluation of a reader, in place of one that is there."""
    folder = artifact.METRICS / name
    shutil.rmtree(folder, ignore_errors=True)
    order = random.Random(0).sample(range(200), 200)
    rows = [{"id": f"row{i}", "scores": {"exact_match": float(order[i] < share * 200)}} for i in range(200)]
    artifact.write_jsonl(folder / "samples/facts.jsonl", rows)
    result = {"metrics": {}, "higher_is_better": {"exact_match": True}, "rag": scores}
    artifact.write_json(folder / "results.json", {"model": name, "tasks": {"facts": result}})
    artifact.write_json(folder / PROMPT, FORM.model_dump())
    make(folder, stage="evaluate_rag", **inputs)


def commit() -> None:
    """Record the artifacts as those of the last run."""
    from dvc.repo import Repo

    Repo().commit(force=True)


def digest(name: str) -> str:
    return artifact.read_manifest(Path("artifacts", name)).digest


def add_readers(make: Make, taught: str = "Where does Ada live?") -> None:
    """Give the project in the working directory two readers, made from its `sft`, and the index they read from.

    Args:
        make: writes manifests.
        taught: the one question that trains.
    """
    facts, grounded = Path("artifacts/media/facts"), Path("artifacts/media/grounded")
    chunks, retriever = Path("artifacts/chunks/passages"), Path("artifacts/models/retriever")
    asked = [{"id": f"row{i}", "question": f"Where does number {i} live?", "answer": "Olvar"} for i in range(200)]
    artifact.write_jsonl(facts / "eval/facts.jsonl", asked)
    question = {"role": "user", "content": taught}
    artifact.write_jsonl(facts / "prompts/train.jsonl", [{"id": "t", "prompt": [question]}])
    source = {"kind": "generator", "name": "facts.questions", "licence": "CC0-1.0"}
    artifact.write_json(facts / "report.json", {"contaminated": [], "sets": {}, "sources": {"invented": source}})
    lines = [make_stage("facts", facts, make, "data")]
    chunks.mkdir(parents=True)
    (chunks / "chunks.parquet").write_text("passages")
    found = {"documents": 3, "licence": "CC-BY-4.0"}
    artifact.write_json(chunks / "report.json", {"sources": {"people": found}})
    lines.append(make_stage("rag_chunks", chunks, make, "rag_chunks"))
    retriever.mkdir(parents=True)
    (retriever / "model.safetensors").write_text("encoder")
    lines.append(make_stage("retriever", retriever, make, "retriever", chunks=chunks, data=facts))
    (INDEX / "lexical").mkdir(parents=True)
    (INDEX / "index.json").write_text("an index")
    (INDEX / "lexical/words").write_text("words")
    lines.append(make_stage("rag_index", INDEX, make, "rag_index", chunks=chunks, encoder=retriever, data=facts))
    shown = [row | {"question": f"A passage. [1]\n{row['question']}"} for row in asked]
    artifact.write_jsonl(grounded / "eval/facts.jsonl", shown)
    said = [{"role": "user", "content": "B. [1]\nWho?"}, {"role": "assistant", "content": "B. [1] B"}]
    artifact.write_jsonl(grounded / "sft/train.jsonl", [{"id": "t", "messages": said}])
    artifact.write_json(grounded / "report.json", {"train": {}})
    artifact.write_json(grounded / PROMPT, FORM.model_dump())
    lines.append(make_stage("raft", grounded, make, "raft", index=INDEX, data=facts))
    parent = Path("artifacts/models/sft")
    for name, share in READERS.items():
        folder = artifact.MODELS / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(name)
        lines.append(make_stage(name, folder, make, name, model=parent, data=grounded))
        inputs = {"index": digest("indexes/index"), "data": digest("media/grounded")}
        evaluated(name, make, share, rag(), model=digest(f"models/{name}"), **inputs)
        export = artifact.ONNX / name
        (export / "int8").mkdir(parents=True)
        (export / "int8/model.onnx").write_text(f"{name} in int8")
        form = {"max_logprob_difference": 0.1, "kl_per_token": 0.01, "argmax_agreement": 0.99, "greedy_agreement": 0.9}
        form |= {"bytes": 9, **dict.fromkeys(parity.IDENTICAL, True)}
        limits = dict.fromkeys(("max_logprob_difference", "argmax_agreement", "greedy_agreement"))
        proof = {"forms": {"int8": form}, "thresholds": {"int8": {**limits, "kl_per_token": 0.02}}, "prompts": 8}
        artifact.write_json(export / "parity.json", proof)
        lines.append(make_stage(f"export-{name}", export, make, "export_onnx", model=folder, data=grounded))
        evaluated(f"{name}_int8", make, share, rag(), model=digest(f"onnx/{name}"), **inputs)
        others = [str(INDEX), str(grounded)]
        lines.append(stage(f"asked-{name}", f"artifacts/metrics/{name}", str(folder), *others))
        lines.append(stage(f"asked-{name}-int8", f"artifacts/metrics/{name}_int8", str(export), *others))
        parent = folder
    with Path("dvc.yaml").open("a") as f:
        f.write("".join(lines))
    with Path("mlflow/gates.yaml").open("a") as f:
        f.write(GATES)
    commit()


def make_stage(name: str, folder: Path, make: Make, method: str, **inputs: Path) -> str:
    """Write the manifest of an artifact, and return its block of dvc.yaml."""
    digests = {key: artifact.read_manifest(path).digest for key, path in inputs.items()}
    make(folder, stage=method, **digests)
    return stage(name, str(folder), *map(str, inputs.values()))
