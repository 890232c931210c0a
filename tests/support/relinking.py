"""Artifacts whose manifests name each other, made anew after one of them was edited."""

from collections.abc import Callable
from pathlib import Path

from tasks.stage import artifact


def remake(tree: Path, folder: Path, make_artifact: Callable[..., artifact.Manifest], stage: str = "") -> None:
    """Write the manifest of an artifact that a test has edited, and of all that were made from it.

    Args:
        tree: the folder with all artifacts.
        folder: the edited one.
        make_artifact: the fixture.
        stage: which made it from now on; by default the one that did.
    """
    before = artifact.read_manifest(folder)
    changed = {before.digest: make_artifact(folder, stage=stage or before.stage, **before.inputs).digest}
    while changed:
        old, new = changed.popitem()
        for path in tree.rglob(artifact.MANIFEST):
            child = artifact.read_manifest(path.parent)
            if old in child.inputs.values():
                inputs = {key: new if digest == old else digest for key, digest in child.inputs.items()}
                after = child.model_copy(update={"inputs": inputs})
                artifact.write_json(path, after.model_dump())
                changed[child.digest] = after.digest
