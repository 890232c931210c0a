"""The report of what a run brought up to date, with what was measured on this machine.

    python -m tasks.reporting.local params/tiny/report.yaml .polm/report artifacts/data artifacts/models/sft …

The `report` stage is about the whole DAG and holds nothing that differs from run to run. After every run that evaluated
something, `polm run` makes this one of the artifacts that it brought up to date, which may be a part of the DAG:
`index.html`, the same page with seconds, memory, speeds and MLflow runs, `leaderboard.json`, and what
`dvc plots show` can draw of score against speed, `frontier_speed.json`.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.reporting import board, frontier
from tasks.reporting import page as html_page
from tasks.stage import artifact, recipe
from tasks.stage.lifecycle import read_measurements


def main(params: Path, out: Path, artifacts: Sequence[Path]) -> None:
    """Write the page and its leaderboard.

    Args:
        params: the recipe's `report.yaml`, which may be missing.
        out: folder to write to.
        artifacts: folders of the artifacts to report on, all of the same `artifacts/`.
    """
    graph = recipe.read(params.parent / recipe.FILE)
    wanted = set(artifacts)
    folders = {n: folder for n, folder in html_page.folders(Path("artifacts"), graph).items() if folder in wanted}
    scores = board.build(board.settings(params), graph, folders, params)
    measured = {name: taken for name, folder in folders.items() if (taken := read_measurements(folder))}
    page = html_page.render(folders, scores, measured, _runs(scores))
    out.mkdir(parents=True, exist_ok=True)
    artifact.write_json(out / "leaderboard.json", scores)
    artifact.write_json(out / "frontier_speed.json", frontier.by_speed(scores["frontier"], measured))
    (out / "index.html").write_text(page, encoding="utf-8")


def _runs(scores: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Artifact name to the MLflow run of the stage that made it."""
    path = artifact.STATE / "mlflow_runs.json"
    known = artifact.read_json(path) if path.exists() else {}
    runs = {run["artifact"]: run for run in known.values() if "artifact" in run}
    names = {node["name"]: f"artifacts/{node['name']}" for node in scores["lineage"]}
    return {name: runs[folder] for name, folder in names.items() if folder in runs}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
