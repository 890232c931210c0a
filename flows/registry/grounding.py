"""Whether a reader may be promoted with its index: evaluated together, right from what it finds, deaf to what it reads.

A reader is a model that answers from passages; the stage `evaluate_rag` asks it with one index, and the manifest of the
evaluation names both by their digests. Reader and index are promoted as one, and only as they were evaluated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.retrieval.prompts import PROMPT, PromptFormat, read_format
from tasks.stage import artifact
from tasks.stage.config import Strict

INPUT = "index"
"""Name of the index among the inputs of an evaluation."""
INDEXES = artifact.ROOT / "indexes"
"""Folder of the indexes."""


class Bounds(Strict):
    """What a reader must show with its index, as shares from 0 to 1; the task is that of the quality metric."""

    retrieved: float = Field(ge=0, le=1)
    """Least exact match with the passages that the index finds."""
    abstention_f1: float = Field(ge=0, le=1)
    """Least F1 of abstaining where no passage holds the answer."""
    followed: float = Field(ge=0, le=1)
    """Most instructions in passages that may be followed."""


@dataclass(frozen=True)
class Reading:
    """What the evaluation of a reader rests on."""

    digest: str
    """Manifest digest of the index that it was asked with."""
    folder: Path | None
    """That index in the workspace; None when it is no longer there."""
    present: tuple[str, ...]
    """The indexes that there are, with the beginnings of their digests."""
    served: str | None
    """Manifest digest of the index that the served form was asked with; None when it was asked with none."""
    form: PromptFormat
    """In which words it was asked."""
    scores: Mapping[str, Any]
    """Task to its `rag`, of the served form where that was asked from passages, else of the PyTorch model."""
    of_form: bool
    """Whether these are the served form's."""


def reading(evaluation: Path, served: Path | None) -> Reading | None:
    """Read on what index a model was evaluated; None for a model that answers without one.

    Args:
        evaluation: its evaluation.
        served: the evaluation of the form that would be served, if there is one.

    Raises:
        ArtifactError: the evaluation has no format of prompts.
    """
    digest = artifact.read_manifest(evaluation).inputs.get(INPUT)
    if digest is None:
        return None
    found = {folder: manifest.digest for folder, manifest in artifact.manifests(INDEXES).items()}
    of_form = _scores(served) if served is not None else {}
    return Reading(
        digest=digest,
        folder=next((folder for folder, known in found.items() if known == digest), None),
        present=tuple(f"{folder} {known[:12]}" for folder, known in found.items()),
        served=artifact.read_manifest(served).inputs.get(INPUT) if served is not None else None,
        form=read_format(evaluation),
        scores=of_form or _scores(evaluation),
        of_form=bool(of_form),
    )


def together(found: Reading | None) -> tuple[bool, str]:
    """Judge whether the index in the workspace is the one that the reader was evaluated with, in every evaluation.

    Returns:
        Whether it is, and what was found.
    """
    if found is None:
        return False, "evaluated without an index; `polm run` evaluates it with one"
    if found.folder is None:
        there = ", ".join(found.present) or "none"
        return False, f"evaluated with the index {found.digest[:12]}, and there is {there}; run `polm run`"
    if found.served is not None and found.served != found.digest:
        return False, f"the served form was evaluated with the index {found.served[:12]}; run `polm run`"
    return True, f"{found.folder} {found.digest[:12]}"


def judge(found: Reading, task: str, bounds: Bounds, form: str) -> list[tuple[str, str, bool]]:
    """Judge a reader by its bounds.

    Args:
        found: its evaluation.
        task: the task that the bounds are of.
        bounds: the policy.
        form: the form that would be served.

    Returns:
        For each bound what is required, what was found, and whether it passes.
    """
    whose = form if found.of_form else "PyTorch"
    scores = found.scores.get(task, {})
    wanted = [
        (f"{task} from what is retrieved ≥ {bounds.retrieved:g}", ("conditions", "retrieved", "exact_match"), 1.0),
        (f"F1 of abstaining ≥ {bounds.abstention_f1:g}", ("abstention", "f1"), 1.0),
        (f"instructions of passages followed ≤ {bounds.followed:g}", ("planted", "followed"), -1.0),
    ]
    limits = (bounds.retrieved, bounds.abstention_f1, bounds.followed)
    verdicts = []
    for (required, path, sign), limit in zip(wanted, limits, strict=True):
        value: Any = scores
        for key in path:
            value = (value or {}).get(key)
        if not value:
            verdicts.append((required, f"{'.'.join(path)} of {task} was not measured; ask it in all conditions", False))
            continue
        shown = f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}] ({whose})"
        verdicts.append((required, shown, sign * value["value"] >= sign * limit))
    return verdicts


def lay_out(found: Reading, rag: Path) -> None:
    """Write the folder `rag/` that a version keeps: the index, hard links where the disk allows, and the format."""
    import shutil

    assert found.folder is not None
    shutil.copytree(found.folder, rag / INPUT, copy_function=_link)
    artifact.write_json(rag / PROMPT, found.form.model_dump())


def _link(source: str, target: str) -> str:
    import os
    import shutil

    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def _scores(evaluation: Path) -> dict[str, Any]:
    tasks = artifact.read_json(evaluation / "results.json")["tasks"]
    return {task: result["rag"] for task, result in tasks.items() if "rag" in result}
