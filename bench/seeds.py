"""Does each method help on every seed? Runs a recipe's DAG from several seeds and prints each method's own metric.

    python bench/seeds.py --recipe tiny --seeds 1 2
    python bench/seeds.py --recipe tiny --seeds 4 --data

Every seed works in a copy of the working tree with the seed put into all training stages; the data are the same, or
with `--data` drawn anew by the generators, split anew too: then no question is one that a setting was chosen by. A row
is the paired difference between a method and the model it was made from, or the one that `report.yaml` sets it `over`,
on the metric that it claims, with the interval. Exits 1 when one of them is not better.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tasks import report
from tasks.reporting import page
from tasks.stage.config import load

REPO = Path(__file__).resolve().parents[1]
KEPT = {"data", "evaluate", "export_onnx", "report"}
"""Stages whose seed draws rows or resamples and trains nothing."""


def prepare(work: Path, recipe: str, seed: int, data: bool) -> None:
    """Copy the working tree and put the seed into every training stage's YAML, and with `data` into all generators."""
    shutil.copytree(REPO, work, ignore=shutil.ignore_patterns(".venv", ".polm", ".checkpoints", "artifacts", "cache"))
    for path in sorted((work / "params" / recipe).glob("*.yaml")):
        if path.stem not in KEPT:
            path.write_text(re.sub(r"^seed: \d+", f"seed: {seed}", path.read_text(), flags=re.MULTILINE))
    if data:
        path = work / "params" / recipe / "data.yaml"
        path.write_text(re.sub(r"\bseed: (\d+)", lambda m: f"seed: {int(m[1]) + 1000 * seed}", path.read_text()))


def train(work: Path, recipe: str) -> dict[str, Any]:
    """Run the DAG up to the evaluations; returns the leaderboard."""
    environment = os.environ | {"PYTHONPATH": str(work), "DVC_SITE_CACHE_DIR": str(work / ".polm/dvc")}
    command = [sys.executable, "-c", "from flows.cli import main; main()", "run", "--recipe", recipe]
    subprocess.run([*command, "--target", "evaluate"], check=True, cwd=work, env=environment)
    settings = work / "params" / recipe / "report.yaml"
    found = page.folders(*(work / "artifacts" / name for name in page.FOLDERS))
    return report.leaderboard(load(settings, report.Config), found, settings)


def main() -> None:
    """Run all seeds, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--data", action="store_true", help="draw the data anew as well")
    args = parser.parse_args()
    found: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temp:
        for seed in args.seeds:
            prepare(Path(temp) / str(seed), args.recipe, seed, args.data)
            found[seed] = train(Path(temp) / str(seed), args.recipe)["claims"]
    for seed, rows in found.items():
        for row in rows:
            d, name = row["difference"], f"{row['task']}.{row['metric']}"
            print(
                f"seed {seed}  {row['model']:10} over {row['parent']:5} {name:24} {row['before']['value']:.3f} → "
                f"{row['after']['value']:.3f}  {d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]  {d['verdict']}"
            )
    verdicts = [row["difference"]["verdict"] for rows in found.values() for row in rows]
    print(f"{verdicts.count('better')} of {len(verdicts)} better")
    sys.exit(0 if verdicts and set(verdicts) == {"better"} else 1)


if __name__ == "__main__":
    main()
