"""Reinforcement learning from AI feedback (Lee et al., arXiv:2309.00267): DPO on pairs that a judge labelled.

One raw row, out of the `labels` artifact: as in `dpo`, with "source": "judge". The answers are the policy's own and the
preference is the judge's, so what is learnt is at best the constitution as the judge understands it: its agreement with
the gold checker and its biases are in `metrics.json` beside the training figures (`judge_agreement`, …). What it leaves
out: a reward model between judge and policy (the "canonical" setting of the paper), and fresh pairs while it learns.
"""

from pathlib import Path

from tasks import dpo
from tasks.stage import artifact
from tasks.stage.lifecycle import Run, stage

trainer_class = dpo.trainer_class
row_rule = None


class Config(dpo.Config):
    """`params/<recipe>/rlaif.yaml`. `dataset` is the set in the labels artifact: `preferences`."""


def main(config: Config, run: Run, *, model: Path, labels: Path) -> None:
    """Optimise `model` on the judge's labels and write a model folder with its curves and the judge's figures."""
    figures = artifact.read_json(labels / "judge.json")
    judge = {f"judge_{name}": value for name, value in figures.items() if isinstance(value, int | float)}
    dpo.optimise(config, run, model, labels, judge)


if __name__ == "__main__":
    stage(main, Config)
