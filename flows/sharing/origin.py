"""Whether a result from elsewhere was made by this stage and of these inputs, by what its manifest says.

DVC's run-cache is believed by DVC: an entry says which output came of which command, settings and inputs. A copy in
which files changed while the stage ran, or a program with an error, writes an entry that is wrong; the artifact's own
manifest then names another stage, or inputs with other digests.
"""

import json
import logging
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

from tasks.stage import artifact

log = logging.getLogger("polm")


def fits(stage: Any, entry: Any, repo: Any) -> bool:
    """Compare the manifest of a known output, in the cache, with the stage and its inputs, in the working copy.

    An entry of the run-cache that does not fit is deleted here, or DVC would take the output from it, and a warning
    says so. What `dvc.lock` names is believed.

    Args:
        stage: DVC's stage, with its inputs of now.
        entry: a stage with the known output.
        repo: `dvc.repo.Repo`.

    Returns:
        Whether nothing contradicts it; also for an output that has no manifest.
    """
    wrong = "" if entry is stage else contradiction(stage, entry, repo)
    if not wrong:
        return True
    log.warning("%s: the result that is known for it is not taken, so it runs: %s", stage.addressing, wrong)
    _forget(stage, repo)
    return False


def contradiction(stage: Any, entry: Any, repo: Any) -> str:
    """Say in what a known output differs from what the stage would write; empty where in nothing."""
    words = shlex.split(stage.cmd)
    module = words[words.index("-m") + 1].rpartition(".")[2] if "-m" in words[:-1] else None
    for out in entry.outs:
        manifest = _manifest(out, repo)
        if manifest is None:
            continue
        if module is not None and manifest.stage != module:
            return f"its manifest is of the stage '{manifest.stage}'"
        for flag, value in pairwise(words):
            name, here = flag.removeprefix("--"), Path(value, artifact.MANIFEST)
            if not flag.startswith("--") or name not in manifest.inputs or not here.is_file():
                continue
            if artifact.read_manifest(here.parent).digest != manifest.inputs[name]:
                return f"its manifest names another input as --{name} than {value}"
    return ""


def _manifest(out: Any, repo: Any) -> artifact.Manifest | None:
    """Read the manifest of a known output from the cache; None for an output that is no artifact."""
    listing = out.get_obj()
    if not out.hash_info.isdir or listing is None:
        return None
    for key, _, info in listing:
        if key == (artifact.MANIFEST,):
            path = Path(repo.cache.local.oid_to_path(info.value))
            return artifact.Manifest(**json.loads(path.read_text(encoding="utf-8")))
    return None


def _forget(stage: Any, repo: Any) -> None:
    """Delete the entries of the run-cache for this command and these inputs."""
    from dvc.stage.cache import _can_hash, _get_stage_hash

    key = _get_stage_hash(stage) if _can_hash(stage) else None
    if key:
        shutil.rmtree(Path(repo.cache.legacy.path, "runs", key[:2], key))  # DVC does not bear an empty folder there
