"""What the runs of one `polm run` share: the connection to MLflow, the experiment, and the state of git."""

import logging
import threading
from typing import Any

from flows.services import reach
from flows.tracking import client
from flows.tracking.git import git_state

log = logging.getLogger("polm")
AWAY_SECONDS = 60.0
"""Seconds for which MLflow, once it did not answer, is not asked for what can wait: a try holds up a stage's thread."""


class Logbook:
    """A recipe's experiment in MLflow, for the threads of one process."""

    def __init__(self, recipe: str) -> None:
        self.recipe = recipe
        self.api: Any = None
        """MLflow's client; None before `connect`."""
        self.experiment_id = ""
        self.lock = threading.Lock()
        self.pause = reach.Pause(AWAY_SECONDS)
        self._git: dict[str, str] = {}

    def connect(self) -> None:
        """Load MLflow and find the recipe's experiment. Raises PolmError."""
        self.api = client.client()
        self._git = git_state()
        if "git_error" in self._git:
            log.warning("the run is logged with commit '%s': %s", self._git["commit"], self._git["git_error"])
        self.experiment_id = client.experiment_id(self.api, self.recipe)

    def create(self, name: str, tags: dict[str, str]) -> str:
        """Create a run with the state of git as tags; returns its id."""
        tags = {**tags, "recipe": self.recipe, **self._git, "mlflow.source.git.commit": self._git["commit"]}
        return str(self.api.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id)

    def url(self, run_id: str) -> str:
        """Write the address of a run in the web interface."""
        return client.run_url(self.experiment_id, run_id)
