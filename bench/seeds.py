"""Does each method help on every seed? Runs a recipe's DAG from several seeds and prints each method's own metric.

    python -m bench.seeds --recipe tiny --seeds 1 2
    python -m bench.seeds --recipe tiny --seeds 4 --data
    python -m bench.seeds --recipe tiny --seeds 1 2 3 --target 'evaluate@student_*' evaluate@grpo --reseed distill \
        --control student_alone --teacher grpo
    python -m bench.seeds --recipe tiny --seeds 1 2 3 --target evaluate_media --reseed sight vlm video hearing speech \
        --groups

Every seed works in a copy of the working tree with the seed put into all training stages; the data are the same, or
with `--data` drawn anew by the generators, split anew too: then no question is one that a setting was chosen by. With
`--reseed` only those stages get the seed, and what they are made from comes out of this working copy's DVC cache: the
students of one teacher, from several seeds.

A row is the paired difference between a method and the model it was made from, or the one that `recipe.yaml` sets it
`over`, or `--control`, on the metric that it claims, with the interval. Where the seeds share their questions, a last
row gives each question its mean over the seeds. Exits 1 when one of them is not better. `--groups` prints before it
what each model scores by group of questions, with its own pictures or sounds and under each control, on every seed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.grading.bootstrap import paired_difference, verdict
from tasks.reporting import board, hearing, page, sight
from tasks.stage import artifact
from tasks.stage.config import load
from tasks.stage.errors import ConfigError
from tasks.stage.recipe import FILE
from tasks.stage.recipe import read as read_graph

REPO = Path(__file__).resolve().parents[1]
SEEDLESS = {"data", "evaluate", "export_onnx", "report"}
"""Recipe files whose seed draws rows or resamples and trains nothing."""
Scores = dict[str, float]
"""Question to score."""


@dataclass(frozen=True)
class Row:
    """One method's claim, from one seed or from all of them."""

    seed: str
    """Seed, or `all`."""
    model: str
    parent: str
    """Model that it is compared with."""
    metric: str
    """Task and metric, e.g. `sums.exact_match`."""
    before: float
    """Score of the parent."""
    after: float
    """Score of the model."""
    difference: Mapping[str, Any]
    """Paired difference: `value`, `low`, `high` and `verdict`."""

    def __str__(self) -> str:
        d = self.difference
        return (
            f"seed {self.seed:<3}  {self.model:10} over {self.parent:5} {self.metric:24} {self.before:.3f} → "
            f"{self.after:.3f}  {d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]  {d['verdict']}"
        )


def prepare(
    work: Path, recipe: str, seed: int, *, reseed: Sequence[str], params: Mapping[str, Path], data: bool
) -> None:
    """Copy the working tree and put the seed into its recipe.

    Args:
        work: folder to copy to.
        recipe: recipe to change there.
        seed: seed of the stages.
        reseed: recipe files, e.g. `distill`, that get the seed; none of them stands for all that train.
        params: recipe file to the one that replaces it, e.g. `distill` to `bench/students_gpu.yaml`.
        data: whether the generators get the seed too.

    Raises:
        ConfigError: the recipe has no such file, or a file to reseed has no seed.
    """
    shutil.copytree(REPO, work, ignore=shutil.ignore_patterns(".venv", ".polm", ".checkpoints", "artifacts", "cache"))
    folder = work / "params" / recipe
    for name in (*params, *reseed):
        if not (folder / f"{name}.yaml").exists():
            raise ConfigError(f"params/{recipe}: no file {name}.yaml")
    for name, path in params.items():
        shutil.copyfile(path, folder / f"{name}.yaml")
    for path in sorted(folder.glob("*.yaml")):
        if path.stem in reseed or (not reseed and path.stem not in SEEDLESS):
            text, count = re.subn(r"^seed: \d+", f"seed: {seed}", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            if path.stem in reseed and not count:
                raise ConfigError(f"params/{recipe}/{path.name}: no line 'seed: N' to put {seed} into")
            path.write_text(text, encoding="utf-8")
    if data:
        path = folder / "data.yaml"
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"\bseed: (\d+)", lambda m: f"seed: {int(m[1]) + 1000 * seed}", text), encoding="utf-8")


def share_cache(work: Path) -> None:
    """Let a copy restore from this working copy's DVC cache what its seed does not change."""
    dvc = [sys.executable, "-m", "dvc"]
    cache = subprocess.run([*dvc, "cache", "dir"], cwd=REPO, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([*dvc, "config", "--local", "cache.dir", str(REPO / cache)], cwd=work, check=True)


def train(work: Path, recipe: str, targets: Sequence[str], jobs: int) -> None:
    """Bring the stages of a copy up to date, with all they need. Raises SystemExit when `polm run` fails."""
    environment = os.environ | {"PYTHONPATH": str(work), "DVC_SITE_CACHE_DIR": str(work / ".polm/dvc")}
    command = [sys.executable, "-c", "from flows.cli import main; main()", "run", "--recipe", recipe]
    options = ["--jobs", str(jobs), *(word for name in targets for word in ("--target", name))]
    status = subprocess.run([*command, *options], check=False, cwd=work, env=environment).returncode
    if status:
        raise SystemExit(f"{work}: `polm run` ended with exit code {status}, see above")


def built(work: Path, recipe: str, control: str | None) -> dict[str, Any]:
    """Build the board of what was evaluated in a copy, where all models are compared with `control`, if it is named."""
    settings = work / "params" / recipe / "report.yaml"
    graph = read_graph(settings.with_name(FILE))
    if control is not None:
        models = {
            name: replace(model, values={**model.values, "over": control}) if name in graph.claims else model
            for name, model in graph.models.items()
        }
        graph = replace(graph, models=models)
    config = load(settings, board.Config)
    return board.build(config, graph, page.folders(work / "artifacts", graph), settings)


def rows(leaderboard: Mapping[str, Any], seed: int, control: str | None) -> list[Row]:
    """List the claims of a board, but that of the `control`."""
    return [
        Row(
            seed=str(seed),
            model=claim["model"],
            parent=claim["parent"],
            metric=f"{claim['task']}.{claim['metric']}",
            before=claim["before"]["value"],
            after=claim["after"]["value"],
            difference=claim["difference"],
        )
        for claim in leaderboard["claims"]
        if claim["model"] != control
    ]


def groups(leaderboard: Mapping[str, Any], seed: int) -> list[str]:
    """Write a line for each group of questions that a model was asked with controls, and for each word error rate."""
    models = [*leaderboard["models"]]
    lines = [
        f"seed {seed:<4} {row['model']:10} {row['task']}.{row['metric']} {row['group']:14} {row['score']:.3f}  "
        + "  ".join(f"{name} {by['value']:.3f}" for name, by in row["by"].items())
        for row in sight.compared(leaderboard, models)
    ]
    return lines + [
        f"seed {seed:<4} {row['model']:10} {row['task']} word error rate {row['group']:14} {row['value']:.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}]  " + "  ".join(f"{name} {by:.3f}" for name, by in row["by"].items())
        for row in hearing.rates(leaderboard, models)
    ]


def scores(metrics: Path, metric: str) -> Scores:
    """Read how an evaluation scored each question on `TASK.METRIC`."""
    task, _, name = metric.partition(".")
    return {row["id"]: row["scores"][name] for row in artifact.read_jsonl(metrics / "samples" / f"{task}.jsonl")}


def mean_scores(works: Sequence[Path], model: str, metric: str) -> Scores:
    """Average each question's score over the seeds."""
    seeds = [scores(work / "artifacts" / "metrics" / model, metric) for work in works]
    return {question: sum(one[question] for one in seeds) / len(seeds) for question in seeds[0]}


def together(row: Row, works: Sequence[Path], config: board.Config) -> Row:
    """Compare a model with its parent over all seeds: each question counts with its mean over them."""
    before = mean_scores(works, row.parent, row.metric)
    after = mean_scores(works, row.model, row.metric)
    difference = paired_difference(
        after, before, resamples=config.resamples, confidence=config.confidence, seed=config.seed
    )
    task, _, metric = row.metric.partition(".")
    results = artifact.read_json(works[0] / "artifacts" / "metrics" / row.model / "results.json")
    higher_is_better = results["tasks"][task]["higher_is_better"][metric]
    return Row(
        seed="all",
        model=row.model,
        parent=row.parent,
        metric=row.metric,
        before=sum(before.values()) / len(before),
        after=sum(after.values()) / len(after),
        difference={**vars(difference), "verdict": verdict(difference, higher_is_better=higher_is_better)},
    )


def share(row: Row, works: Sequence[Path], teacher: str) -> str:
    """Say which share of its teacher's score a model has, over all seeds."""
    theirs, ours = (mean_scores(works, model, row.metric) for model in (teacher, row.model))
    return f"{row.model:10} has {sum(ours.values()) / sum(theirs.values()):.1%} of {teacher}'s {row.metric}"


def main() -> None:
    """Run all seeds, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--data", action="store_true", help="draw the data anew as well")
    parser.add_argument(
        "--target",
        nargs="+",
        default=["evaluate@*"],
        help="stages to bring up to date, as `polm run --target` names them",
    )
    parser.add_argument("--reseed", nargs="+", default=[], help="recipe files that get the seed; all without it")
    parser.add_argument("--params", nargs="+", default=[], metavar="NAME=FILE", help="recipe files to replace")
    parser.add_argument("--control", help="model that all others are compared with")
    parser.add_argument("--teacher", help="evaluated model: say which share of its score each model has")
    parser.add_argument("--groups", action="store_true", help="print the scores by group and under each control")
    parser.add_argument("--jobs", type=int, default=2, help="stages at a time")
    args = parser.parse_args()
    params = {name: Path(path) for name, _, path in (word.partition("=") for word in args.params)}
    with tempfile.TemporaryDirectory() as temp:
        works = {seed: Path(temp) / str(seed) for seed in args.seeds}
        for seed, work in works.items():
            prepare(work, args.recipe, seed, reseed=args.reseed, params=params, data=args.data)
            if args.reseed:
                share_cache(work)
            train(work, args.recipe, args.target, args.jobs)
        boards = {seed: built(work, args.recipe, args.control) for seed, work in works.items()}
        claims = {seed: rows(one, seed, args.control) for seed, one in boards.items()}
        table = [row for seed in args.seeds for row in claims[seed]]
        if len(works) > 1 and not args.data:
            first = args.seeds[0]
            config = load(works[first] / "params" / args.recipe / "report.yaml", board.Config)
            table += [together(row, [*works.values()], config) for row in claims[first]]
        teacher = [share(row, [*works.values()], args.teacher) for row in claims[args.seeds[0]]] if args.teacher else []
    shown = [line for seed, one in boards.items() for line in groups(one, seed)] if args.groups else []
    print("\n".join([*shown, *map(str, table), *teacher]))
    verdicts = [row.difference["verdict"] for row in table]
    print(f"{verdicts.count('better')} of {len(verdicts)} better")
    sys.exit(0 if verdicts and set(verdicts) == {"better"} else 1)


if __name__ == "__main__":
    main()
