"""PPO in two processes against one: is the reward at the end another one, beyond what a seed makes of it?

    python -m bench.ppo_ranks --model artifacts/models/sft --reward artifacts/models/reward --data artifacts/data

Each training is the stage's own command with the settings of `--params`, but for steps, seed and the batch, which is
shared out among the processes (gloo, on the CPU). Printed are the means of the logged rewards over the last quarter of
the steps, for each seed, and their mean and standard deviation over the seeds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ruamel.yaml import YAML

from tasks.stage.config import read_yaml

LAUNCHERS = {1: None, 2: "torchrun --standalone --nproc-per-node 2 -m"}
"""Number of processes to `launch`."""


def trained(values: dict[str, Any], inputs: list[str], folder: Path) -> list[float]:
    """Run the stage with these settings. Returns the logged rewards; raises CalledProcessError where it fails."""
    params = folder / "ppo.yaml"
    YAML().dump(values, params)
    out = folder / "made"
    command = [sys.executable, "-m", "tasks.ppo", str(params), *inputs, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rows = map(json.loads, (out / "curves.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["reward"] for row in rows if "reward" in row]


def main() -> None:
    """Train each seed in one process and in two, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--params", type=Path, default=Path("params/tiny/ppo.yaml"), help="settings of the stage")
    for name in ("model", "reward", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="artifact that the stage is given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    inputs = [word for name in ("model", "reward", "data") for word in (f"--{name}", str(vars(args)[name]))]
    print("| processes | " + " | ".join(f"seed {seed}" for seed in args.seeds) + " | mean | deviation |")
    print("|---|" + "---|" * (len(args.seeds) + 2))
    for processes, launcher in LAUNCHERS.items():
        found = []
        for seed in args.seeds:
            values = read_yaml(args.params)
            rows = values["trainer"]["per_device_train_batch_size"] // processes
            trainer = {"max_steps": args.steps, "save_steps": args.steps}
            values["trainer"] |= trainer | {"per_device_train_batch_size": rows}
            values |= {"seed": seed, "launch": launcher, "threads": 1}
            with tempfile.TemporaryDirectory(prefix="polm-ppo-ranks-") as folder:
                rewards = trained(values, inputs, Path(folder))
            found.append(mean(rewards[-max(1, len(rewards) // 4) :]))
        cells = [f"{value:.3f}" for value in (*found, mean(found), stdev(found))]
        print(f"| {processes} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
