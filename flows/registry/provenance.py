"""Gates on where a model comes from: its data, what it was made from, the workspace and the commit."""

from pathlib import Path

from flows.registry import evidence
from flows.registry.evidence import Evidence
from flows.registry.verdict import Verdict
from tasks.stage import artifact


def contamination(e: Evidence) -> Verdict:
    """Judge whether an evaluation question trains, by the rows themselves; all stages must have used the same split."""
    required = "no evaluation question among the training rows"
    known = {_data_digest(e), *(m.digest for m in e.chain.values() if m.stage == "data")}
    others = {name for name, m in e.chain.items() if "data" in m.inputs and m.inputs["data"] not in known}
    if others or e.data is None:
        names = ", ".join(sorted(others)) or "the evaluation"
        return Verdict("contamination", required, f"{names}: made from another data artifact; run `polm run`", False)
    trained = [Path(name) for name, m in e.chain.items() if m.stage == "data"]
    # The questions of a reader show passages; as they were before, they are in the data that its rows were made from.
    sources = {m.inputs.get("data") for m in e.chain.values() if m.digest == _data_digest(e)}
    asked = [e.data, *(Path(name) for name, m in e.chain.items() if m.digest in sources)]
    looked = [evidence.leaked_questions(data, [e.data, *trained]) for data in asked]
    leaks = sorted({leak for found, _, _ in looked for leak in found})
    questions, rows = sum(count for _, count, _ in looked), looked[0][2]
    removals = sum(len(artifact.read_json(path / "report.json").get("contaminated", ())) for path in asked)
    if leaks:
        return Verdict("contamination", required, f"{len(leaks)} of {questions} train too, e.g. “{leaks[0]}”", False)
    found = f"0 of {questions} in {rows} rows ({removals} rows were removed)"
    return Verdict("contamination", required, found, questions > 0)


def _data_digest(e: Evidence) -> str:
    return e.chain[str(artifact.METRICS / e.model)].inputs["data"]


def lineage(e: Evidence) -> Verdict:
    """Judge whether all that the candidate was made from is still there, down to something made from no artifact."""
    present = {m.digest for m in e.chain.values()}
    gone = [
        f"{name}: {key}" for name, m in e.chain.items() for key, digest in m.inputs.items() if digest not in present
    ]
    found = f"not in the workspace: {', '.join(gone)}" if gone else f"{len(e.chain)} verified artifacts"
    return Verdict("lineage", "every input down to the data, verified", found, not gone)


def workspace(e: Evidence) -> Verdict:
    """Judge whether the candidate is what `dvc.lock` says."""
    found = f"changed since: {', '.join(e.stale)}; run `polm run`" if e.stale else "equal"
    return Verdict("workspace", "code, params and artifacts as in dvc.lock", found, not e.stale)


def commit(e: Evidence, allow_dirty: bool) -> Verdict:
    """Judge whether the code is committed, and with `allow_dirty` whether there is a commit at all."""
    required = "a git commit" + ("" if allow_dirty else ", nothing uncommitted")
    if e.git["commit"] == "none":
        return Verdict("commit", required, e.git["git_error"], False)
    dirty = e.git["dirty"] == "true"
    changes = f" and {e.git.get('git_error', 'changes')}" if dirty else ""
    return Verdict("commit", required, e.git["commit"][:12] + changes, allow_dirty or not dirty)
