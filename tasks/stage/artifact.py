"""Artifacts: a stage's one output folder, complete or absent, and provably what it was when written.

A folder is written under a temporary name while an exclusive `flock` is held, gets its `manifest.json` last, and is
renamed into place in one step. `kill -9` at any moment leaves either the old folder or none. The manifest holds the
SHA-256 of every file, the stage, the digest of its configuration and the digests of the manifests it was made from:
no time and no host, so equal inputs give equal bytes, and the chain of manifests is the lineage.
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.stage import locks
from tasks.stage.config import Strict, digest
from tasks.stage.errors import ArtifactError, kind, refusal

STATE = Path(".polm")
"""Working state that is no artifact: locks, temporary folders, measurements, logs. Never shared, safe to delete."""
LAST_REPORT = STATE / "report"
"""Report on what the last run brought up to date, all of the DAG or a part."""
ROOT = Path("artifacts")
"""Folder of every artifact, in the working copy."""
MODELS = ROOT / "models"
METRICS = ROOT / "metrics"
ONNX = ROOT / "onnx"
REPORTS = ROOT / "reports"
MANIFEST = "manifest.json"


class Manifest(Strict):
    """What an artifact is and what it was made from."""

    stage: str
    """Module name of the stage, e.g. `sft`."""
    params: str
    """SHA-256 of the stage's validated configuration."""
    inputs: dict[str, str]
    """Input name (`model`, `data`, …) to the digest of that artifact's manifest."""
    files: dict[str, str]
    """Relative path to SHA-256, every file but the manifest itself."""

    @property
    def digest(self) -> str:
        """Identity of the artifact."""
        return digest(self)


def sha256(path: Path) -> str:
    """Compute the SHA-256 of one file, as hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest without checking the files. Raises ArtifactError when there is none."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder}: no {MANIFEST}; this artifact was not made yet (run `polm run`)") from None
    except OSError as e:
        raise ArtifactError(refusal(e) or f"{folder / MANIFEST}: cannot be read ({e.strerror})") from None
    except ValueError as e:
        raise ArtifactError(f"{folder / MANIFEST}: unreadable ({e}); {_remedy(folder)}") from None


def manifests(root: Path = ROOT) -> dict[Path, Manifest]:
    """Read the manifest of every artifact below a folder, by the artifact's folder, without checking the files."""
    return {path.parent: read_manifest(path.parent) for path in sorted(root.glob(f"**/{MANIFEST}"))}


def chain(digest: str, manifests: Iterable[Manifest]) -> list[Manifest]:
    """List an artifact and all that it was made from, each before what it was made from.

    Args:
        digest: digest of the artifact's manifest.
        manifests: manifests at hand. What is not among them is left out, with all that it alone was made from.
    """
    by_digest = {manifest.digest: manifest for manifest in manifests}
    inputs_first: dict[str, Manifest] = {}

    def visit(digest: str) -> None:
        if digest in by_digest and digest not in inputs_first:
            for _, source in sorted(by_digest[digest].inputs.items()):
                visit(source)
            inputs_first[digest] = by_digest[digest]

    visit(digest)
    return list(reversed(inputs_first.values()))


def verify(folder: Path) -> Manifest:
    """Read an artifact's manifest and check every file against it.

    Raises:
        ArtifactError: a file is missing, extra, or has other bytes than were written.
    """
    manifest = read_manifest(folder)
    present = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    for name in sorted(present ^ set(manifest.files)):
        state = "is not in the manifest" if name in present else "is missing"
        raise ArtifactError(f"{folder / name}: {state}; {_remedy(folder)}")
    for name, expected in manifest.files.items():
        actual = sha256(folder / name)
        if actual != expected:
            raise ArtifactError(
                f"{folder / name}: corrupted (SHA-256 {actual[:12]}…, written as {expected[:12]}…); {_remedy(folder)}"
            )
    return manifest


def verify_input(name: str, path: Path) -> dict[str, Manifest]:
    """Verify an artifact, every artifact in a folder of artifacts, or the artifact that a folder is part of.

    Returns:
        `{name: manifest}` for an artifact or a part of one (a form of an export), `{name/child: manifest}` for several.

    Raises:
        ArtifactError: corrupted, or nothing there.
    """
    if (path / MANIFEST).exists():
        return {name: verify(path)}
    if path.is_dir() and (path.parent / MANIFEST).exists():
        return {name: verify(path.parent)}
    children = sorted(p.parent for p in path.glob(f"*/{MANIFEST}"))
    if not children:
        raise ArtifactError(f"{path}: no {MANIFEST}; this artifact was not made yet (run `polm run`)")
    return {f"{name}/{child.name}": verify(child) for child in children}


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold the right to write `out` for the life of the process.

    Raises:
        ArtifactError: another process is writing it, or the file system has no locks.
    """
    path = STATE / "locks" / f"{_slug(out)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as f:
        if not locks.acquire(f):
            raise ArtifactError(f"{out}: another process is writing it; wait for it, or end it (`fuser {path}`)")
        yield


@contextlib.contextmanager
def writing(out: Path, *, stage: str, params: str, inputs: dict[str, str]) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out`, with its manifest, when the block ends without an error.

    The caller holds `lock(out)`.

    Raises:
        ArtifactError: the disk is full, or a folder must not be written. Nothing is left behind, and an older `out`
            stays as it was.
    """
    temp = STATE / "tmp" / _slug(out)
    old = temp.with_name(temp.name + ".old")
    for leftover in (temp, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temp.mkdir(parents=True)
        yield temp
        files = {str(p.relative_to(temp)): sha256(p) for p in sorted(temp.rglob("*")) if p.is_file()}
        manifest = Manifest(stage=stage, params=params, inputs=inputs, files=files)
        write_json(temp / MANIFEST, manifest.model_dump())
        _sync(temp)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rename(old)
        temp.rename(out)
    except Exception as e:
        reason = refusal(e)
        if reason is None:
            raise
        raise ArtifactError(f"{out}: not written: {reason}") from e
    finally:
        for leftover in (temp, old):
            shutil.rmtree(leftover, ignore_errors=True)


def write_json(path: Path, data: Any) -> None:
    """Write JSON that is the same bytes for the same data. A reader, or a kill, finds it whole or not at all."""
    temp = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    temp.write_text(json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    temp.rename(path)


def read_json(path: Path) -> Any:
    """Read JSON. Raises ArtifactError naming the file when it is missing, broken, or no file."""
    what = kind(path)
    if what not in ("a file", "missing"):
        raise ArtifactError(f"{path}: is {what}; expected a JSON file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run `polm run`") from None
    except ValueError as e:
        raise ArtifactError(f"{path}: not JSON ({e})") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read rows that a stage wrote. Raises ArtifactError naming file and line, or shards in the place of the file."""
    rows = []
    if not path.exists() and any(path.with_suffix("").glob("*.parquet")):
        raise ArtifactError(
            f"{path}: its rows are in shards, {path.with_suffix('')}/, which are not read here; take `shards` out "
            f"of the recipe's data.yaml, or raise `shards.rows`"
        )
    with path.open(encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            try:
                rows.append(json.loads(line))
            except ValueError as e:
                raise ArtifactError(f"{path}:{number}: not JSON ({e})") from None
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows, one JSON object a line, keys in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def _slug(out: Path) -> str:
    return str(out).strip("/").replace("/", "-")


def _remedy(folder: Path) -> str:
    return (
        f"delete {folder} and run `polm run` to restore it; if DVC's cache holds the same corrupted copy, "
        f"`polm run --force` the stage that writes it"
    )


def _sync(folder: Path) -> None:
    """Flush files to disk before the rename, so that a power cut cannot leave a renamed folder of empty files."""
    for path in [*folder.rglob("*"), folder]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
