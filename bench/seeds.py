"""Does a method help on every seed? Trains base, SFT and DPO of a recipe from several seeds and tests each step.

    python bench/seeds.py --recipe tiny --seeds 1 2

Works in a temporary folder; the recipe's data are made once. For each seed it prints the paired difference of SFT to
base and of DPO to SFT, with its 95 % interval, on every metric of the evaluation. Exits 1 when an interval of a step's
own metric (`--sft-metric`, `--dpo-metric`) does not lie above 0.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tasks import _artifact as artifact
from tasks._stats import paired_difference

REPO = Path(__file__).resolve().parents[1]
SEEDED = ("base", "sft", "dpo")


def run(stage: str, recipe: str, out: str, **inputs: str) -> None:
    """Run one stage as `dvc.yaml` would. Raises CalledProcessError."""
    flags = [word for name, path in inputs.items() for word in (f"--{name}", path)]
    command = [sys.executable, "-m", f"tasks.{stage}", f"params/{recipe}/{stage}.yaml", *flags, "--out", out]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(REPO)})


def train(recipe: str, seed: int) -> None:
    """Train and evaluate the three models of one seed into `<seed>/`."""
    for stage in SEEDED:
        path = Path(f"params/{recipe}/{stage}.yaml")
        path.write_text(re.sub(r"^seed: \d+", f"seed: {seed}", path.read_text(), flags=re.MULTILINE))
    data = "artifacts/data"
    run("base", recipe, f"{seed}/models/base", data=data)
    run("sft", recipe, f"{seed}/models/sft", model=f"{seed}/models/base", data=data)
    run("dpo", recipe, f"{seed}/models/dpo", model=f"{seed}/models/sft", data=data)
    for model in SEEDED:
        run("evaluate", recipe, f"{seed}/metrics/{model}", model=f"{seed}/models/{model}", data=data)


def compare(seed: int, child: str, parent: str, own: str) -> bool:
    """Print every metric's paired difference; True when `own` is above 0 with its whole interval."""
    better = False
    for path in sorted(Path(f"{seed}/metrics/{child}/samples").glob("*.jsonl")):
        rows = {m: artifact.read_jsonl(Path(f"{seed}/metrics/{m}/samples/{path.name}")) for m in (child, parent)}
        for metric in rows[child][0]["scores"]:
            scores = {m: {row["id"]: row["scores"][metric] for row in rows[m]} for m in rows}
            d = paired_difference(scores[child], scores[parent], resamples=10_000, confidence=0.95, seed=0)
            name = f"{path.stem}.{metric}"
            print(f"seed {seed}  {child} - {parent}  {name:28} {d.value:+.3f}  [{d.low:+.3f}, {d.high:+.3f}]")
            better = better or (name == own and d.low > 0)
    return better


def main() -> None:
    """Run all seeds, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sft-metric", default="sums.exact_match")
    parser.add_argument("--dpo-metric", default="sums.helpful")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        shutil.copytree(REPO / "params", Path(temp) / "params")
        os.chdir(temp)
        run("data", args.recipe, "artifacts/data")
        for seed in args.seeds:
            train(args.recipe, seed)
        steps = (("sft", "base", args.sft_metric), ("dpo", "sft", args.dpo_metric))
        passed = [compare(seed, *step) for seed in args.seeds for step in steps]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
