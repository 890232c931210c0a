"""The files of a finished run that the tables are written from."""

import json
from pathlib import Path
from typing import Any

from tasks.stage.errors import ArtifactError


class Artifacts:
    """A folder `artifacts/` with the results of a recipe's whole DAG."""

    def __init__(self, folder: Path, recipe: str) -> None:
        """Raises ArtifactError when there is no report, or one of another recipe."""
        self.folder = folder
        self.recipe = recipe
        self.board = self.read("reports/leaderboard.json")
        if self.board["recipe"] != recipe:
            raise ArtifactError(
                f"{folder}/reports/leaderboard.json is of the recipe '{self.board['recipe']}'; "
                f"run `polm run --recipe {recipe}` first"
            )

    def read(self, name: str) -> Any:
        """Read a JSON file by its path below the folder. Raises ArtifactError when it is not there."""
        path = self.folder / name
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; run `polm run --recipe {self.recipe}` first")
        return json.loads(path.read_text(encoding="utf-8"))

    def models(self) -> list[str]:
        """Name the models, parents first."""
        names = [node["name"].partition("/") for node in self.board["lineage"]]
        return [name for kind, _, name in names if kind == "models"]

    def made_by(self, *stages: str) -> list[str]:
        """Name the models that these stages made, parents first."""
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

    def claim(self, model: str) -> dict[str, Any]:
        """Look up what a model claims. Raises ArtifactError when it claims nothing."""
        claims = [row for row in self.board["claims"] if row["model"] == model]
        if not claims:
            raise ArtifactError(
                f"{self.folder}/reports/leaderboard.json: no claim of '{model}'; give it one in the recipe"
            )
        row: dict[str, Any] = claims[0]
        return row
