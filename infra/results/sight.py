"""Tables of the models that see and of those that hear: their scores beside those with other pictures and sounds."""

from infra.results.artifacts import Artifacts
from infra.results.markdown import code, figure, table
from tasks.multimodal.controls import HEARD
from tasks.reporting import hearing
from tasks.reporting.sight import controls

CONTROLS = ("noise", "black", "other", "shuffled", "repeated", "reversed")
"""Columns of the table, in order; a model that was not asked under one has a dash there."""


def sight(artifacts: Artifacts) -> str:
    """Write what each model scores with its own pictures and under each control."""
    rows = [
        [
            code(row["model"]),
            code(f"{row['task']}.{row['metric']}"),
            row["group"],
            figure(row["score"]),
            *(figure(row["by"][control]["value"]) if control in row["by"] else "–" for control in CONTROLS),
            row["verdict"],
        ]
        for row in controls(artifacts.board, artifacts.models())
    ]
    return table(["model", "metric", "rows", "own", *CONTROLS, "verdict"], rows)


def word_error_rates(artifacts: Artifacts) -> str:
    """Write the pooled word error rate of each model that hears, by voice, and under each control."""
    rows = [
        [
            code(row["model"]),
            row["group"],
            str(row["words"]),
            f"{figure(row['value'])} [{figure(row['low'])}, {figure(row['high'])}]",
            *(figure(row["by"][control]) if control in row["by"] else "–" for control in HEARD),
        ]
        for row in hearing.rates(artifacts.board, artifacts.models())
    ]
    return table(["model", "voices", "words", "word error rate", *HEARD], rows)


def heard(artifacts: Artifacts) -> str:
    """Write what each model that hears scores with its own sounds and under each control."""
    rows = [
        [
            code(row["model"]),
            code(f"{row['task']}.{row['metric']}"),
            figure(row["score"]),
            *(figure(row["by"][control]["value"]) if control in row["by"] else "–" for control in HEARD),
            row["verdict"],
        ]
        for row in hearing.controls(artifacts.board, artifacts.models())
    ]
    return table(["model", "metric", "own", *HEARD, "verdict"], rows)
