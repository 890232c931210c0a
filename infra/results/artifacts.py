"""The files of a finished run that the tables are written from."""

import json
from pathlib import Path
from typing import Any

from tasks.reporting.board import Config
from tasks.stage import recipe
from tasks.stage.config import load
from tasks.stage.errors import ArtifactError


class Artifacts:
    """A folder `artifacts/` with the results of a recipe's whole DAG."""

    def __init__(self, folder: Path, params: Path) -> None:
        """Read the leaderboard of a run.

        Args:
            folder: outputs of the run.
            params: folder of the recipe, whose graph gives the order of the models.

        Raises:
            ArtifactError: there is no report, or it is of another recipe.
            ConfigError: the recipe's graph or `report.yaml` cannot be read.
        """
        self.folder = folder
        self.graph = recipe.read(params / recipe.FILE)
        self.settings = load(params / "report.yaml", Config)
        self.board = self.read("reports/leaderboard.json")
        if self.board["recipe"] != self.graph.recipe:
            raise ArtifactError(
                f"{folder}/reports/leaderboard.json is of the recipe '{self.board['recipe']}'; "
                f"run `polm run --recipe {self.graph.recipe}` first"
            )

    def read(self, name: str) -> Any:
        """Read a JSON file by its path below the folder. Raises ArtifactError when it is not there."""
        path = self.folder / name
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; run `polm run --recipe {self.graph.recipe}` first")
        return json.loads(path.read_text(encoding="utf-8"))

    @property
    def left_out(self) -> list[str]:
        """What the machine that made the report left out for want of a module, in a line for each set of modules."""
        notices: list[str] = self.board.get("left_out", [])
        return notices

    def models(self) -> list[str]:
        """Name the models of the run in the order of the recipe's graph."""
        return [model for model in (recipe.BASE, *self.graph.models) if model in self.board["models"]]

    def made_by(self, *stages: str) -> list[str]:
        """Name the models that these stages made, in the order of the recipe's graph."""
        return [model for model in self.models() if self.board["models"][model]["stage"] in stages]

    def score(self, model: str, metric: str) -> dict[str, Any] | None:
        """Look up a model's score, or None where it was not asked: `value`, `low`, `high`, `difference`.

        Args:
            model: its name.
            metric: `task.metric`.
        """
        task, _, name = metric.partition(".")
        scores: dict[str, Any] | None = self.board["models"][model]["tasks"].get(task, {}).get("metrics", {}).get(name)
        return scores

    def claims(self) -> list[dict[str, Any]]:
        """List the claims of the leaderboard in the order of the recipe's graph."""
        rows = {row["model"]: row for row in self.board["claims"]}
        return [rows[model] for model in self.models() if model in rows]

    def claim(self, model: str) -> dict[str, Any]:
        """Look up the claim of a model. Raises ArtifactError when it has none."""
        for row in self.claims():
            if row["model"] == model:
                return row
        raise ArtifactError(f"{self.folder}/reports/leaderboard.json: no claim of '{model}'; add one to its graph")
