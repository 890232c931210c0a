"""Tables of the models that see: their scores beside those with other pictures."""

from infra.results.artifacts import Artifacts
from infra.results.markdown import code, figure, table
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
