"""Students of one teacher, by every method of a recipe and from several seeds, on one task: what did the teacher add?

    python -m bench.students params/tiny/distill.yaml params/tiny/evaluate.yaml long_sums.exact_match \
        --teacher artifacts/models/grpo --data artifacts/data --out build/students --seeds 1 2 3
    python -m bench.students bench/students_gpu.yaml params/smollm2/evaluate.yaml reasoning.correct --device cuda \
        --teacher artifacts/models/grpo --data artifacts/data --out build/students --jobs 4

Every student is trained and evaluated by the pipeline's own stages, on all rows of the task; what lies in `--out` is
not made again. The first method of the file is the control, the student that had no teacher. A difference from it is
paired, with a 95 % interval; over the seeds, each question counts with its mean. Exits 1 unless some student is better
than the control and reaches `--share` of the teacher's score, over the seeds.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from bench.forms.children import environment
from tasks.distill import Config
from tasks.grading.bootstrap import mean_interval, paired_difference
from tasks.stage.artifact import read_jsonl
from tasks.stage.config import load, read_yaml

SURE: dict[str, Any] = {"resamples": 4000, "confidence": 0.95, "seed": 0}
Scores = dict[str, float]
"""Question to score."""


def stage(words: Sequence[str | Path], out: Path, threads: int) -> None:
    """Run a stage in its seed's folder, unless its artifact is there. Raises SystemExit with the end of its log."""
    if out.exists():
        return
    log = out.parent / f"{out.name}.{words[0]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", f"tasks.{words[0]}", *map(str, words[1:]), "--out", str(out)]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment(threads), cwd=out.parents[1], check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{log.read_text(encoding='utf-8')[-2000:]}")


def prepare(args: argparse.Namespace) -> Path:
    """Write a recipe file of each seed, and one that asks the metric's task and nothing else; returns the latter."""
    for seed in args.seeds:
        folder = args.out / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        text = re.sub(r"^seed: \d+", f"seed: {seed}", args.distill.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (folder / "distill.yaml").write_text(text, encoding="utf-8")
    settings, task = read_yaml(args.evaluate), args.metric.partition(".")[0]
    chosen = [c for c in settings["tasks"] if read_yaml(args.evaluate.parent / c["file"])["task"] == task]
    if not chosen:
        raise SystemExit(f"{args.evaluate}: no task '{task}'")
    settings["tasks"] = [{**c, "file": str(args.evaluate.parent.resolve() / c["file"]), "limit": None} for c in chosen]
    settings["device"] = args.device
    path: Path = args.out / "evaluate.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def scores(folder: Path, metric: str) -> Scores:
    """Of an evaluation."""
    task, _, name = metric.partition(".")
    return {row["id"]: row["scores"][name] for row in read_jsonl(folder / "samples" / f"{task}.jsonl")}


def table(found: dict[str, dict[int, Scores]], teacher: Scores, share: float) -> bool:
    """Print every student of every seed and all seeds together; whether one of them is what was asked for."""
    control, reached = next(iter(found)), False
    best = sum(teacher.values()) / len(teacher)
    print(f"teacher {best:.3f} of {len(teacher)} questions\n")
    print(f"{'student':<20}{'seed':>6}{'score':>8}  {'95 %':<16}{'of teacher':>11}  against {control}")
    for name, seeds in found.items():
        together = {q: sum(one[q] for one in seeds.values()) / len(seeds) for q in teacher}
        alone = {q: sum(one[q] for one in found[control].values()) / len(seeds) for q in teacher}
        rows = [(str(seed), one, found[control][seed]) for seed, one in seeds.items()]
        for label, mine, other in [*rows, ("all", together, alone)] if len(seeds) > 1 else rows:
            value, d = mean_interval(list(mine.values()), **SURE), paired_difference(mine, other, **SURE)
            against = "" if name == control else f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
            interval, part = f"[{value.low:.3f}, {value.high:.3f}]", value.value / best if best else 0.0
            print(f"{name:<20}{label:>6}{value.value:>8.3f}  {interval:<16}{part:>10.1%}  {against}")
        reached |= name != control and part >= share and d.low > 0  # of the last line: all seeds
    return reached


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("distill", type=Path, help="parameters of the stage")
    parser.add_argument("evaluate", type=Path, help="the recipe's evaluate.yaml")
    parser.add_argument("metric", help="TASK.METRIC")
    parser.add_argument("--teacher", type=Path, required=True, help="Hugging Face folder; the student is cut from it")
    parser.add_argument("--data", type=Path, required=True, help="data artifact")
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu", help="where they are evaluated")
    parser.add_argument("--jobs", type=int, default=1, help="students at a time")
    parser.add_argument("--share", type=float, default=0.9, help="of the teacher's score that is asked for")
    args = parser.parse_args()
    for key in ("distill", "evaluate", "teacher", "data", "out"):
        setattr(args, key, getattr(args, key).resolve())
    config, asked = load(args.distill, Config), prepare(args)

    def evaluate(model: Path, out: Path) -> Scores:
        stage(["evaluate", asked, "--model", model, "--data", args.data], out, config.threads)
        return scores(out, args.metric)

    def student(seed: int, name: str) -> Scores:
        folder = args.out / f"seed{seed}"
        given = ["--teacher", args.teacher, "--model", args.teacher, "--data", args.data]
        stage(["distill", folder / "distill.yaml", *given], folder / "models" / name, config.threads)
        return evaluate(folder / "models" / name, folder / "metrics" / name)

    with ThreadPoolExecutor(args.jobs) as pool:
        teacher = pool.submit(evaluate, args.teacher, args.out / "teacher" / "metrics" / args.teacher.name)
        jobs = {(name, seed): pool.submit(student, seed, name) for seed in args.seeds for name in config.methods}
        found = {name: {seed: jobs[name, seed].result() for seed in args.seeds} for name in config.methods}
    sys.exit(0 if table(found, teacher.result(), args.share) else 1)


if __name__ == "__main__":
    main()
