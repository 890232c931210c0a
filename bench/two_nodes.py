"""The pipeline over two nodes of a real engine against a run on this machine: the same `dvc.lock`?

    python -m bench.two_nodes --engine slurm --main --lock dvc.lock
    python -m bench.two_nodes --engine ray --target evaluate@base --local
    python -m bench.two_nodes --engine slurm --main --lock dvc.lock --keep /scratch/two     # again: goes on

Working copies, caches and the DVC remote are fresh. Every stage goes to the engine, whose two nodes are daemons on
loopback (`infra/cluster/`, as root). What is compared is every hash, of code, settings, inputs and outputs, of every
stage that ran there. Without `--lock` or `--local` nothing is compared. `--main` is the `MAIN` of the Makefile; without
targets the whole pipeline runs. Stages that do not give the same bytes on every kind of machine differ from a lock that
was made on another one: they are named, and so is what only reads them. The exit code is 1 where anything differs.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench import working_copy
from bench.working_copy import REPO
from flows.terminal.board import duration
from tasks.stage.config import read_yaml

SCRIPTS = REPO / "infra/cluster"
RAY_ADDRESS = "127.0.0.1:26379"
ALONE = "output alone: the same stage gave other bytes"
ENGINES: dict[str, dict[str, Any]] = {
    "slurm": {"engine": "slurm", "options": {"cpus-per-task": 2}},
    "ray": {"engine": "ray", "address": RAY_ADDRESS, "cpus": 2, "resources": {}},
}
"""What the section of a runner says besides the folders; with two CPUs a stage has a node for itself."""


def main() -> None:
    """Run both sides, print what is equal, and end with 1 where anything differs."""
    options = _options()
    if options.keep is None:
        root = Path(tempfile.mkdtemp(prefix="polm-two-"))
    else:
        root = options.keep.absolute()
        root.mkdir(parents=True, exist_ok=True)
    targets = [*options.target, *(_main_line() if options.main else [])]
    words = ["run", "--recipe", options.recipe, *(word for target in targets for word in ("--target", target))]
    try:
        with _daemons(options.engine, root) as through:
            there, seconds = _there(root, words, options.engine, through)
        reference, here_seconds = None, None
        if options.lock:
            reference = read_yaml(options.lock)["stages"]
        elif options.local:
            reference, here_seconds = _side(root, "here", words, ())
        wall = {"over two nodes": seconds} | ({"here": here_seconds} if here_seconds else {})
        differing = _report(there, reference, wall, root / "there")
    finally:
        if options.keep is None:
            shutil.rmtree(root, ignore_errors=True)
    sys.exit(1 if differing else 0)


def differences(ran: dict[str, Any], reference: dict[str, Any]) -> dict[str, str]:
    """Compare the entries of `dvc.lock`, all that is in them.

    Args:
        ran: stage to its entry, of the run over two nodes.
        reference: the same of the other run, which may have more stages.

    Returns:
        Stage to what is another one; no entry for a stage that is equal.
    """
    found = {}
    for name, entry in ran.items():
        other = reference.get(name)
        if other is None:
            found[name] = "not in the other lock"
        elif entry != other:
            parts = [key for key in sorted(entry.keys() | other.keys()) if entry.get(key) != other.get(key)]
            inputs = _paths(entry.get("deps", []), other.get("deps", []))
            words = [f"input {path}" for path in inputs] + [part for part in parts if part not in ("deps", "outs")]
            same = entry.get("outs") == other.get("outs")
            found[name] = f"{', '.join(words)}; output {'equal' if same else 'different'}" if words else ALONE
    return found


def _paths(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """Return the paths of which two lists of `dvc.lock` say different things."""
    one, other = ({item["path"]: item for item in items} for items in (ours, theirs))
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.two_nodes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=sorted(ENGINES), required=True)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--target", action="append", default=[], help="as of `polm run`; may be repeated")
    parser.add_argument("--main", action="store_true", help="the targets of `make demo`")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--local", action="store_true", help="run the same on this machine and compare with that")
    other.add_argument("--lock", type=Path, help="a `dvc.lock` to compare with")
    parser.add_argument("--keep", type=Path, help="folder that stays; given again, the runs in it go on")
    return parser.parse_args()


def _main_line() -> list[str]:
    line = re.search(r"^MAIN\s*:=\s*(.*)$", (REPO / "Makefile").read_text(encoding="utf-8"), re.M)
    assert line, "Makefile: no MAIN"
    return [word for word in line[1].split() if word != "--target"]


@contextlib.contextmanager
def _daemons(engine: str, root: Path) -> Iterator[tuple[str, ...]]:
    """Start the engine's two nodes; yields the words before a command that reaches them. Their folder has a short name,
    since sockets lie in it.
    """
    with tempfile.TemporaryDirectory(prefix=f"polm-{engine}-", ignore_cleanup_errors=True) as folder:
        script = str(SCRIPTS / f"{engine}.sh")
        started = [script, "start", folder, *([sys.executable] if engine == "ray" else [])]
        try:
            if subprocess.run(started, check=False, stdout=subprocess.DEVNULL).returncode:
                raise SystemExit(f"`infra/cluster/{engine}.sh start` failed; {root} is kept if --keep names it")
            os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
            yield (script, "inside", folder) if engine == "ray" else ()
        finally:
            subprocess.run([script, "stop", folder], check=False, timeout=60)


def _there(root: Path, words: list[str], engine: str, through: tuple[str, ...]) -> tuple[dict[str, Any], float]:
    """Run every stage on the engine; returns the entries of `dvc.lock` and the seconds of the wall clock."""
    shared = root / "shared"
    if not (shared / "code.git").exists():
        shared.mkdir(exist_ok=True)
        subprocess.run(["git", "init", "--quiet", "--bare", str(shared / "code.git")], check=True)
    there = {"jobs": 2, "python": sys.executable, "work": str(shared / "work"), "environment": [], "gpus": False}
    there |= ENGINES[engine]
    if engine == "slurm":
        there["output"] = str(shared / "output")
    file = {
        "code": str(shared / "code.git"),
        "checkpoints": str(shared / "checkpoints"),
        "runners": {"there": there},
        "rules": [{"stages": "*", "runner": "there"}],
    }
    with (root / "runners.yaml").open("w", encoding="utf-8") as f:
        YAML(typ="safe").dump(file, f)
    return _side(root, "there", [*words, "--runners", str(root / "runners.yaml")], through)


def _side(root: Path, name: str, words: list[str], through: tuple[str, ...]) -> tuple[dict[str, Any], float]:
    """Run `polm` in a working copy with an empty cache; returns the entries of `dvc.lock` and the seconds of all runs
    in this copy, those that were interrupted too.
    """
    work, clock = root / name, root / f"{name}.json"
    if not work.exists():
        working_copy.make(work)
        (work / "dvc.lock").unlink(missing_ok=True)
        if name == "there":
            remote = ["remote", "add", "--quiet", "--force", "--default", "storage", str(root / "shared/storage")]
            subprocess.run([sys.executable, "-m", "dvc", *remote], cwd=work, check=True)
    before = json.loads(clock.read_text()) if clock.exists() else 0.0
    start = time.monotonic()
    try:
        _, said = working_copy.run(work, words, through)
        (root / f"{name}.log").write_text(said, encoding="utf-8")
    finally:
        seconds = before + time.monotonic() - start
        clock.write_text(json.dumps(round(seconds, 1)))
    return read_yaml(work / "dvc.lock")["stages"], seconds


def _report(ran: dict[str, Any], reference: dict[str, Any] | None, wall: dict[str, float], work: Path) -> int:
    """Print the result; returns how many stages differ."""
    lines = [f"{key}: {duration(seconds)}" for key, seconds in wall.items()]
    nodes, overhead = _nodes(work), _overhead(work)
    lines.append(f"stages: {len(ran)}; {', '.join(f'{count} on {node}' for node, count in sorted(nodes.items()))}")
    if overhead:
        worst = max(overhead, key=overhead.__getitem__)
        lines.append(
            f"besides the stage: {statistics.median(overhead.values()):.1f} s (median), "
            f"{overhead[worst]:.1f} s at most ({worst}), {sum(overhead.values()):.0f} s in all"
        )
    if reference is None:
        print("\n".join(lines))
        return 0
    found = differences(ran, reference)
    lines.append(f"equal: {len(ran) - len(found)}; different: {len(found)}")
    lines += [f"  {name}: {what}" for name, what in found.items()]
    print("\n".join(lines))
    return len(found)


def _overhead(work: Path) -> dict[str, float]:
    """Return the seconds of each stage besides itself and the queue, of the attempt that made its result."""
    found = {}
    for path in sorted((work / ".polm/logs").glob("2*/summary.json")):
        for name, row in json.loads(path.read_text(encoding="utf-8")).items():
            if row["parts"] and row["state"] in ("done", "restored"):
                found[name] = sum(seconds for part, seconds in row["parts"].items() if part not in ("stage", "wait"))
    return found


def _nodes(work: Path) -> dict[str, int]:
    """Count the stages of each node, by the line of their logs that names it."""
    counts: dict[str, int] = {}
    for path in (work / ".polm/logs").glob("2*/*.log"):
        named = re.findall(r"^node: ([^,\s]+)", path.read_text(encoding="utf-8", errors="replace"), re.M)
        for node in named[-1:]:
            counts[node] = counts.get(node, 0) + 1
    return counts


if __name__ == "__main__":
    main()
